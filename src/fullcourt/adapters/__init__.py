"""Bridges to other libraries, each imported only where that library is asked for."""
