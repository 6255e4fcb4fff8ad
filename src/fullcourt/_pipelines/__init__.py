"""Pipelines: stages that each run in their own way, with items flowing from one to the next."""

from __future__ import annotations

from fullcourt._pipelines.pipeline import Pipeline, PipelineIterator
from fullcourt._pipelines.stages import Stage, StageStatistics

__all__ = ["Pipeline", "PipelineIterator", "Stage", "StageStatistics"]
