"""One cell of the table, as a program: ``python -m benchmarks.torture.cell CASE POOL``; its last line tells its end."""

from __future__ import annotations

import faulthandler
import json
import sys

from benchmarks.torture.cases import CASES, Lost, Wrong
from benchmarks.torture.pools import POOLS, NotOffered


def say(outcome: str, note: str = "") -> None:
    print(json.dumps({"outcome": outcome, "note": note}), flush=True)


def main(key: str, pool: str) -> None:
    faulthandler.enable()
    try:
        CASES[key].run(POOLS[pool])
    except NotOffered:
        say("none")
    except Wrong as error:
        say("wrong", str(error))
    except Lost as error:
        say("lost", str(error))
    except ZeroDivisionError:
        raise  # a program that ends by an error
    except Exception as error:
        say("wrong", f"{type(error).__name__}: {error}"[:120])
    else:
        say("ok")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
