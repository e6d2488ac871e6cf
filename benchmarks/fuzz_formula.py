"""Test the formula parser on random texts: none may run code, hang, or fail without a clear line.

    python benchmarks/fuzz_formula.py --texts 100000 --seed 0

A third each: formulas from a grammar (most of them valid, many near the limits), mutations of the
library's formulas and of known attacks, and random characters. Each text is parsed. A parsed
formula must be a fixed point of text -> expression -> text, and becomes a family, so that binding
and the search for undefined points run too. An audit hook counts every event of running code,
files, sockets or processes as a failure.

Prints counts, times and peak memory, and the text of each failure; exits with 1 after a failure.
"""

import argparse
import json
import os
import platform
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import sympy
from optuna.distributions import FloatDistribution

from pdsearch.errors import InputError
from pdsearch.expression import FUNCTIONS, format_formula, parse
from pdsearch.family import Family, library

SECONDS = 1.0
MEGABYTES = 500
HANG = 20  # seconds after which a text is abandoned

ATTACKS = (
    "__import__('os').system('id')", "().__class__.__bases__", "x.__class__", "x.__class__()",
    'simplify("__import__(1)")', "f'{x}'", "lambda: 0", "[y for y in (1,)]", "(y := 3)",
    "9**9**9**9", "factorial(10**9)", "(" * 250 + "x" + ")" * 250, "-" * 3000 + "x", "not " * 500,
    "nan", "oo", "I", "1/x", "log(x)", "sqrt(x)", "exp(exp(x))", "exp(exp(exp(20)))", "1e400",
    "1e-400", "exp(10**9*log(2))", "exp(10**60*log(2*x))", "(((9**64)**64)**64)**64", "2**x**64",
    "sin(10**79)", "cosh(10**10)", "1/(sin(1)**2 + cos(1)**2 - 1)", "x**10**30", "(-8)**(1/3)",
    "Piecewise((1, x > 0))", "Piecewise((1, x > 0), (2, x > 1), (0, True))", "Piecewise((1, x))",
    "exec('1')", "eval('1')", "open('f', 'w')", "x if x else x", "x;x", "import os", "lambda",
    "E**E**E**E", "Max(x, 1)" + "+Max(x, 1)" * 30, "print(x)", "exp(*x)", "exp(**x)", "x[0]",
    "exit()", "quit", "help()", "globals()", "getattr(x, 'y')", "__builtins__", "x.func(x)",
    "sqrt(-1)", "0**0", "0**x", "0**(-1)", "1/(x - x)", "tanh(1/x)", "((x + 1)**64)**64",
)  # fmt: skip

NUMBERS = (
    "0", "1", "2", "3", "10", "64", "65", "1/3", "0.3", "2.5", "1e-7", "1e9", "1e300", "1e-320",
    "7e22", "123456789", "9" * 40, "0.1234567890123456789", "pi", "E",
)  # fmt: skip
NAMES = ("x", "x", "x", "x", "t", "alpha", "beta", "a", "b")
ONE = [name for name, (_, least, most) in FUNCTIONS.items() if least == most == 1]


class Grammar:
    """Random formulas."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def number(self, depth: int) -> str:
        rng = self.rng
        if depth <= 0:
            return rng.choice(NUMBERS if rng.random() < 0.3 else NAMES)
        kind = rng.random()
        if kind < 0.3:
            operator = rng.choice((" + ", " - ", "*", "/", "**"))
            left, right = self.number(depth - 1), self.number(depth - 1)
            if operator == "**" and rng.random() < 0.7:
                right = rng.choice(("2", "3", "(1/2)", "(-1)", "(-2)", "64", "alpha", "0.3"))
            return f"({left}){operator}({right})"
        if kind < 0.6:
            return f"{rng.choice(ONE)}({self.number(depth - 1)})"
        if kind < 0.68:
            return f"-({self.number(depth - 1)})"
        if kind < 0.75:
            arguments = (self.number(depth - 1) for _ in range(rng.randint(2, 4)))
            return f"{rng.choice(('Min', 'Max', 'min', 'max'))}({', '.join(arguments)})"
        if kind < 0.78:
            return f"clamp({', '.join(self.number(depth - 1) for _ in range(3))})"
        if kind < 0.8:
            return f"Heaviside({self.number(depth - 1)}, {self.number(depth - 2)})"
        if kind < 0.92:
            arms = [
                f"({self.number(depth - 1)}, {self.condition(depth - 1)})"
                for _ in range(rng.randint(1, 3))
            ]
            last = "True" if rng.random() < 0.9 else self.condition(0)
            return f"Piecewise({', '.join(arms)}, ({self.number(depth - 1)}, {last}))"
        return self.number(depth - 1)

    def condition(self, depth: int) -> str:
        rng = self.rng
        if depth > 1 and rng.random() < 0.25:
            if rng.random() < 0.3:
                return f"~({self.condition(depth - 1)})"
            word = rng.choice((" & ", " | ", " and ", " or "))
            return f"({self.condition(depth - 1)}){word}({self.condition(depth - 1)})"
        operator = rng.choice(("<", "<=", ">", ">=", "<", ">", "==", "!="))
        if rng.random() < 0.7:
            return f"x {operator} {rng.choice((*NUMBERS[:8], '-1', '-alpha', 'a'))}"
        return f"{self.number(min(depth, 2))} {operator} {self.number(min(depth, 2) - 1)}"

    def wide(self) -> str:
        """Return a long chain of one kind: run time mostly grows with the number of parts."""
        rng = self.rng
        part = self.number(rng.randint(0, 2))
        count = rng.choice((10, 30, 60, 100, 300))
        parts = [part.replace("x", f"({rng.randint(1, 99)}*x)") for _ in range(count)]
        match rng.randrange(7):
            case 0:
                return "+".join(parts)
            case 1:
                return "*".join(f"({p})" for p in parts)
            case 2:
                return f"{rng.choice(('Max', 'Min'))}({', '.join(parts[: rng.randint(2, 20)])})"
            case 3:
                arms = ", ".join(f"({p}, x > {50 - i})" for i, p in enumerate(parts[:63]))
                return f"Piecewise({arms}, ({part}, True))"
            case 4:
                arms = ", ".join(
                    f"({p}, (x > {i}) & (x < {i + 1}))" for i, p in enumerate(parts[:9])
                )
                return f"Piecewise({arms}, ({part}, True))"
            case 5:
                function, times = rng.choice(ONE), min(count, 38)
                return f"{function}({part}+" * times + "x" + ")" * times
            case _:
                times = min(count, 38)
                tail = rng.choice(("**2", "**(-1)", "**alpha", "/x", "**64", "*x"))
                return "(" * times + part + (f"+{rng.choice(NUMBERS)}){tail}") * times


def mutated(rng: random.Random, corpus: list[str]) -> str:
    """Apply one to six random edits to a known text."""
    text = rng.choice(corpus)
    for _ in range(rng.randint(1, 6)):
        at, length = rng.randint(0, len(text)), rng.randint(1, 12)
        match rng.randrange(6):
            case 0:
                text = text[:at] + text[at + length :]
            case 1:
                text = text[:at] + text[at : at + length] * rng.randint(2, 5) + text[at + length :]
            case 2:
                other = rng.choice(corpus)
                start = rng.randint(0, len(other))
                text = text[:at] + other[start : start + rng.randint(1, 30)] + text[at:]
            case 3:
                text = text[:at] + rng.choice(NUMBERS) + text[at:]
            case 4:
                text = text[:at] + chr(rng.randint(0, 130)) + text[at + 1 :]
            case _:
                text = (
                    text[:at] + rng.choice((*FUNCTIONS, "(", ")", "**", ",", "x", "~")) + text[at:]
                )
    return text


def noise(rng: random.Random) -> str:
    """Return random characters, or random words of the language."""
    if rng.random() < 0.3:
        return "".join(chr(rng.choice((rng.randint(0, 127), rng.randint(0, 0x2FFFF)))) for _ in
                       range(rng.randint(0, 60))).replace("\ud800", "")  # fmt: skip
    words = (
        *FUNCTIONS,
        *NUMBERS,
        *NAMES,
        *"()()()+-*/,<>=&|~. ",
        "**",
        "True",
        "lambda",
        "if",
        "x",
    )
    return "".join(rng.choice(words) for _ in range(rng.randint(1, 40)))


broken: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Record, as an audit hook, the events that no formula may cause."""
    if not armed:
        return
    if event == "compile":
        # ast.parse only compiles to a tree, but it raises the same event.
        if sys._getframe(1).f_code.co_name != "parse":
            broken.append(f"compile {arguments!r:.80}")
            if len(broken) == 1:
                broken.append("".join(traceback.format_stack(limit=16)))
    elif event == "open":
        path, mode, flags = arguments
        if (isinstance(mode, str) and set(mode) & set("wax+")) or flags & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT
        ):
            broken.append(f"open {path!r} for writing")
    elif event == "import":
        if arguments[0].partition(".")[0] not in ("sympy", "mpmath", "flint", "gmpy2", "numpy"):
            broken.append(f"import {arguments[0]}")
    elif event in ("exec", "marshal.loads", "pickle.find_class") or event.startswith(
        ("os.", "subprocess.", "socket.", "shutil.", "ctypes.", "code.", "pty.", "webbrowser.")
    ):
        broken.append(f"{event} {arguments!r:.80}")


armed = False


class Hang(Exception):
    """A text that took too long."""


def _give_up(*_: object) -> None:
    raise Hang


def attempt(text: str) -> str:
    """Parse a text, make it a family, and return the outcome."""
    try:
        expression = parse(text)
    except InputError as error:
        check_message(str(error))
        return "refused"
    again = format_formula(expression)
    if parse(again) != expression or format_formula(parse(again)) != again:
        raise AssertionError(f"no fixed point: {again}")
    names = sorted({s.name for s in expression.free_symbols} - {"x", "t"})
    space = {name: FloatDistribution(0.1, 3.0) for name in names}
    try:
        family = Family("fuzzed", expression, space=space)
        _ = family.default.expression, family.latex
    except InputError as error:
        check_message(str(error))
        return "parsed, not finite"
    return "family"


def check_message(message: str) -> None:
    """Check that a message is one printable line of moderate length."""
    if "\n" in message or not message.isprintable() or not 10 < len(message) < 600:
        raise AssertionError(f"a poor message: {message!r:.300}")


def peak_megabytes() -> float:
    """Return this process's own peak; getrusage also counts the process it was forked from."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> int:
    """Run the texts and print the result."""
    global armed
    parser = argparse.ArgumentParser(description="Fuzz the formula parser.")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    grammar = Grammar(rng)
    corpus = [*ATTACKS, *(family.formula for family in library().values())]
    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, _give_up)
    counts: Counter[str] = Counter()
    worst: list[tuple[float, float, str]] = []
    failures = 0
    started = time.perf_counter()
    for number in range(options.texts):
        kind = number % 3
        if number < len(corpus):
            text = corpus[number]
        elif kind == 0:
            text = grammar.wide() if rng.random() < 0.05 else grammar.number(rng.randint(1, 6))
        elif kind == 1:
            text = mutated(rng, corpus)
        else:
            text = noise(rng)
        wall, cpu = time.perf_counter(), time.process_time()
        signal.alarm(HANG)
        armed = True
        try:
            outcome = attempt(text)
        except Hang:
            outcome = "HANG"
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error)[:300]}"
        finally:
            armed = False
            signal.alarm(0)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if broken:
            outcome = f"AUDIT {broken}"
            broken.clear()
        if outcome not in ("refused", "parsed, not finite", "family"):
            failures += 1
            print(f"FAILED {outcome}\n    {text!r}", file=sys.stderr)
            outcome = "failed"
        counts[outcome] += 1
        worst = sorted([*worst, (cpu, wall, text)], reverse=True)[:5]
        if number % 2_000 == 0:  # otherwise the peak memory would be that of sympy's caches
            sympy.core.cache.clear_cache()
    peak = peak_megabytes()
    slow = worst[0][0] > SECONDS or peak > MEGABYTES
    result = {
        "texts": options.texts,
        "seed": options.seed,
        "outcomes": dict(counts),
        "worst_cpu_seconds": worst[0][0],
        "worst_wall_seconds": max(w for _, w, _ in worst),
        "peak_megabytes": peak,
        "seconds": time.perf_counter() - started,
        "python": platform.python_version(),
        "sympy": sympy.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:20} {value}")
        for cpu, wall, text in worst:
            print(f"  {cpu:.3f} s CPU, {wall:.3f} s wall: {text!r:.150}")
    return int(bool(failures or slow))


if __name__ == "__main__":
    sys.exit(main())
