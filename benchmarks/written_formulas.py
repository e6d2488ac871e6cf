"""Random formulas in common styles, for `fuzz_numerics.py`."""

import random

import sympy

from pdsearch.expression import parse, x


def slope(expression: sympy.Expr) -> sympy.Expr:
    """Return the derivative away from jumps."""
    found = sympy.diff(expression, x).replace(sympy.DiracDelta, lambda *_: sympy.S.Zero)
    return found.doit().replace(sympy.DiracDelta, lambda *_: sympy.S.Zero)


class Writer:
    """Writes random formulas that are finite everywhere, in common styles."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def k(self) -> str:
        """Return a slope."""
        return self.rng.choice(
            ("1", "1", "1", "2", "0.5", "25", "1.702", "0.01", "4", "3.7", "a", "a", "10/3")
        )

    def c(self) -> str:
        """Return a positive number."""
        return self.rng.choice(("1", "1", "2", "0.3", "0.5", "1/3", "0.01", "b", "5", "pi/4"))

    def z(self) -> str:
        """Return a line."""
        shift = self.rng.choice(("x", "x", "x", "(x - 1)", "(x + 2.5)", "(x - b)", "(x + 20)"))
        k = self.k()
        return shift if k == "1" else f"{k}*{shift}"

    def any(self, depth: int = 1) -> str:
        """Return a formula in one style, or a mixture of two."""
        rng = self.rng
        kinds = (self.quotient, self.activation, self.by_hand, self.steps, self.pieces,
                 self.extremes, self.derived, self.tails, self.powers)  # fmt: skip
        one = rng.choice(kinds)
        if depth > 0 and rng.random() < 0.25:
            first, second = self.any(depth - 1), self.any(depth - 1)
            w = rng.choice(("0.3", "0.5", "0.9"))
            return rng.choice(
                (f"{w}*({first}) + (1 - {w})*({second})", f"({first})*({second})",
                 f"({first}) - {w}*({second})")
            )  # fmt: skip
        return one()

    def quotient(self) -> str:
        z, c, d = self.z(), self.c(), self.c()
        return self.rng.choice((
            f"1/(1 + exp(-{z}))", f"exp({z})/(1 + exp({z}))", f"{c}/({d} + exp(-{z}))",
            f"{c}*exp({z})/({d}*exp({z}) + {c})", f"x/(1 + exp(-{z}))",
            f"(exp({z}) - exp(-({z})))/(exp({z}) + exp(-({z})))",
            f"(1 - exp(-2*{z}))/(1 + exp(-2*{z}))", f"(exp(2*{z}) - 1)/(exp(2*{z}) + 1)",
            f"exp(-{z})/(1 + exp(-{z}))**2", f"{c}*exp({z})/({d} + exp({z}))**2",
            f"2/(exp({z}) + exp(-({z})))", f"exp(-x**2)/(exp(-x**2) + {c}*exp(-{z}))",
            f"(exp({z}) + {c})/(exp({z}) + exp(-x) + {d})", f"1/(1 + exp(-{z}))**{d}",
            f"exp({z})/(exp({z}) + exp(3*x) + {c})", f"(1 + exp({z}))**2/(1 + exp(2*({z})))",
            f"(exp({z}) + x)/(exp({z}) + x**2 + 1)", f"exp({z})/(exp({z}) + 1) - 1/(1 + exp(x))",
        ))  # fmt: skip

    def activation(self) -> str:
        z, c = self.z(), self.c()
        return self.rng.choice((
            f"sigmoid({z})", f"(1 + tanh({z}))/2", f"1/2 + tanh({z})/2", f"1/2 + atan({z})/pi",
            f"(1 + erf({z}))/2", f"1 - erfc({z})/2", f"softplus({z})/(1 + softplus({z}))",
            f"1 - tanh({z})**2", f"1/cosh({z})**2", f"1 - sigmoid({z})", f"sinh({z})/cosh({z})",
            f"log(1 + exp({z}))/(1 + abs(x))", f"{c}*(1 - tanh(exp({z})))", "exp(-exp(-x))",
            f"1 - exp(-exp({z}))", f"exp({z} - exp({z}))", f"exp({z})*exp(-exp({z}))",
            f"1/2 + x/(2*sqrt(x**2 + {c}))", "1/2 + x/(2*(1 + abs(x)))", f"tanh(exp({z}))",
            f"{c}*sin(x)*exp(-x**2) + sigmoid({z})", f"exp(-abs({z}))", f"exp(-({z})**2/2)",
            f"log(cosh({z}))/(1 + abs({z}))", f"atan(exp({z}))/pi", f"1/(1 + cosh({z}))",
            f"cosh({z})/(1 + cosh(2*({z})))", f"exp(-softplus({z}))",
        ))  # fmt: skip

    def by_hand(self) -> str:
        """Return a derivative of an activation, written out."""
        z, k = self.z(), self.k()
        return self.rng.choice((
            f"1/(1 + exp(-{k}*x)) + {k}*x*exp(-{k}*x)/(1 + exp(-{k}*x))**2",
            f"(1 + exp(-{k}*x) + {k}*x*exp(-{k}*x))/(1 + exp(-{k}*x))**2",
            f"exp({z})*(exp({z}) + x + 1)/(exp({z}) + 1)**2",
            "(1 + erf(x/sqrt(2)))/2 + x*exp(-x**2/2)/sqrt(2*pi)",
            "(4*(x + 1) + 4*exp(2*x) + exp(3*x) + exp(x)*(4*x + 6))*exp(x)"
            "/(2*exp(x) + exp(2*x) + 2)**2",
            "tanh(log(1 + exp(x))) + x*(1 - tanh(log(1 + exp(x)))**2)/(1 + exp(-x))",
            f"1 - (exp({z}) - exp(-({z})))**2/(exp({z}) + exp(-({z})))**2",
            f"4/(exp({z}) + exp(-({z})))**2",
            f"sigmoid({z})*(1 + x*(1 - sigmoid({z})))", f"sigmoid({z})*(1 - sigmoid({z}))*4",
            f"sigmoid({z}) - sigmoid({z})**2",
            f"exp({z})/(1 + exp({z})) + x*exp(x)/(1 + exp(x))**2",
            "(exp(x)*(x + 1) + 1)*exp(x)/(exp(x) + 1)**2", f"{self.c()}*exp(-{z})*sigmoid({z})**2",
            f"(1 + tanh({z}))*exp(-x**2) + 1 - tanh({z})", f"1/(1 + exp(-{z})) - 1/(1 + exp({z}))",
        ))  # fmt: skip

    def step(self) -> str:
        place = self.rng.choice(("x", "x", "x + 1", "x - 2", "x + b"))
        return self.rng.choice((
            f"Heaviside({place})", f"Heaviside({place}, 0)", f"Heaviside({place}, 1)",
            f"(1 + sign({place}))/2", f"Piecewise((1, {place} > 0), (0, True))",
        ))  # fmt: skip

    def grown(self) -> str:
        """Return a formula for the side below zero."""
        z, c = self.z(), self.c()
        return self.rng.choice((
            f"{c}*exp({z})", f"exp({z})/(1 + exp({z}))", f"{c}*x*exp({z})", f"{c}*exp({z})*cos(x)",
            f"{c}*(exp({z}) - 1)/(exp({z}) + 1)", f"exp({z})*sigmoid({z})", f"cosh({z})*exp({z})",
            f"{c}*exp({z})/(1 + x**2)", f"1/cosh({z})", f"{c}*exp(2*({z}))*(1 - x)",
        ))  # fmt: skip

    def steps(self) -> str:
        h, f, g = self.step(), self.grown(), self.tails()
        upper = self.rng.choice(("1", "1", self.activation(), g))
        return self.rng.choice((
            f"{h}*({upper}) + (1 - {h})*({f})", f"{h} + (1 - {h})*({f})", f"({f})*(1 - {h}) + {h}",
            f"{h} + Heaviside(-x)*({f})", f"Max(x, 0)*exp(-x) + {h}*0.5",
            f"(x - abs(x))*({f})*0.1 + {h}", f"{h} + Min(x, 0)*({f})",
            f"({f})*Heaviside(-x)*Heaviside(x + 3) + {h}*({upper})",
            f"(abs(x) + x)/2*exp(-{self.k()}*x) + {self.c()}*(1 - {h})*({f})",
        ))  # fmt: skip

    def pieces(self, depth: int = 2) -> str:
        rng = self.rng
        below = self.pieces(depth - 1) if depth > 0 and rng.random() < 0.4 else self.grown()
        place = rng.choice(("0", "0", "0", "-1", "1/2", "-b"))
        upper = rng.choice(("1", "1", "1 - 0.3*exp(-x)", "x/(1 + x**2)", self.activation()))
        middle = rng.choice((self.c(), self.activation(), f"{self.c()}*x + 1"))
        return rng.choice((
            f"Piecewise(({upper}, x > {place}), ({below}, True))",
            f"Piecewise(({below}, x <= {place}), ({upper}, True))",
            f"Piecewise(({upper}, x > 2), ({middle}, x > -3), ({below}, True))",
            f"Piecewise(({upper}, x > 2), (Piecewise(({middle}, x > -2), ({below}, True)), True))",
            f"Piecewise((1, x > 0), (({below})*({self.tails()}), True))",
        ))  # fmt: skip

    def extremes(self) -> str:
        z, c, f = self.z(), self.c(), self.activation()
        return self.rng.choice((
            f"Min(1, exp({z}))", f"Min(1, {c}*exp({z}))", f"clamp(exp({z}), 0, {c})",
            f"Max(0, 1 - exp(-{z}))", f"clamp({z}, 0, 1)", f"Min(1, Max({c}*0.1, exp({z})))",
            f"Max({f}, {c})", f"Min(exp({z}), {f})", f"Max(exp(-abs({z})), {f})",
            f"clamp({f}, 0.1, 0.9)", f"Min(exp({z}), exp(-{z}))", f"clamp(x*exp({z}), -1, 1)",
            f"Max(0, Min(1, {c} + {z}))*({f})", f"1/Max(1, exp({z}))", f"1/(1 + Max(0, -{z}))",
            f"exp(Min(0, {z}))", f"exp(-Max(0, {z}))*sigmoid(x)", f"Min(1, cosh({z}))",
        ))  # fmt: skip

    def derived(self) -> str:
        """Return a derivative by sympy.diff, as sympy prints it."""
        rng = self.rng
        source = rng.choice((
            f"x/(1 + exp(-{self.z()}))", f"x*sigmoid({self.z()})", "x*tanh(log(1 + exp(x)))",
            f"log(1 + exp({self.z()}))", "x*(1 + erf(x/sqrt(2)))/2", f"log(cosh({self.z()}))",
            "x/2*(1 + tanh(sqrt(2/pi)*(x + 0.044715*x**3)))", f"tanh({self.z()})",
            f"Max(x, {self.c()}*(exp(x) - 1))", "x*Heaviside(x) + (1 - Heaviside(x))*(exp(x) - 1)",
            f"(exp({self.z()}) - 1)/(exp(x) + 1)", "x*exp(x)/(exp(x) + exp(-x))",
            "Piecewise((x, x > 0), (exp(x) - 1, True))", "Min(x, exp(x))", "log(exp(x) + exp(-x))",
            f"atan(exp({self.z()}))", "sqrt(1 + x**2)", "abs(x)/(1 + abs(x))",
            f"Min(1, exp({self.z()}))",
            f"softplus({self.z()})", "x*atan(x)/pi + x/2", f"1/(1 + exp(-{self.z()}))",
            f"exp(x)/({self.c()} + exp(x))",
        ))  # fmt: skip
        expression = parse(source, parameters=["a", "b"])
        return str(slope(expression))

    def powers(self) -> str:
        """Return a formula with x in an exponent."""
        z, c = self.z(), self.c()
        base = self.rng.choice(("2", "10", "0.5", "b", "pi", "(1 + x**2)", "(1 + exp(x))"))
        return self.rng.choice((
            f"{base}**({z})/(1 + {base}**({z}))", f"Piecewise((1, x > 0), (2**({z}), True))",
            f"Min(1, 2**({z}))", "2**(-x**2)", f"(1 + x**2)**(-sigmoid({z}))", f"0.5**abs({z})",
            f"sigmoid({z})**(1 + x**2)", f"Piecewise((1, x > 0), ({c}*x*3**x, True))",
            f"(2**({z}) - 2**(-({z})))/(2**({z}) + 2**(-({z})))", f"1 - 2**(-exp({z}))",
            f"(1 + abs({z}))**(-1 - abs(x))", f"1/(1 + 10**(-({z})))**{c}", f"tanh(2**({z}))",
            f"exp(-abs(x)**(1 + sigmoid({z})))", f"2**({z} - exp({z}))", f"({c} + x**2)**(-x**2)",
            f"(3**x - 2**x)*Heaviside(-x)*{c} + Heaviside(x)", f"cosh({z})**(-1 - x**2)",
        ))  # fmt: skip

    def tails(self) -> str:
        c, k = self.c(), self.k()
        return self.rng.choice((
            f"{c}/(1 + ({k}*x)**2)", f"{c}/(1 + abs(x))", "1/(1 + x**2)**2", "x**2/(1 + x**2)",
            f"x/(1 + {c}*x**2)", f"(1 + x**2)**(-{c})", "1/sqrt(1 + x**2)", "x**4/(1 + x**4)",
            "x**20/(1 + x**20)", f"exp(-{k}*x**2)", f"x**3*exp(-{c}*x**2)", "1/(1 + log(1 + x**2))",
            f"1/(1 + {c}*abs(x)**3)", "(x**3 + 1)/(x**4 + 2)", f"{c}*exp(-sqrt(1 + x**2))",
            f"exp(-abs(x))*(1 + abs({k}*x))",
        ))  # fmt: skip
