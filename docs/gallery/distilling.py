"""docs/pictures/distilling.png: the same noise, by few steps as they come and by fitted ones."""

from gallery import Gallery, Shown, main, screen, sheet

import ornstein as ou

CALLS, SHOWN = 2, 10


def make(gallery: Gallery) -> Shown:
    model = gallery.digits()
    fit = gallery.pick({"examples": 128}, {"examples": 2, "steps": 8, "rounds": 1})
    tuned = ou.tune(model, CALLS, **fit)
    common = {"label": list(map(str, range(10))), "guidance": 1.0, "seed": 4}
    ways = {
        "128 steps": {"sampler": "unipc", "steps": gallery.pick(128, 8)},
        f"{CALLS} steps": {"sampler": "adams-bashforth", "steps": CALLS},
        f"{CALLS} steps, fitted": {"steps": CALLS},
    }
    rows = [
        (name, screen(model, ou.sample(model, SHOWN, **common, **how).x))
        for name, how in ways.items()
    ]
    caption = (
        f"The same ten noises, led to digits in 128 steps; in {CALLS} on the grid of the run; and "
        f"in the {CALLS} that `ornstein tune` has fitted, which end {tuned.fitted.value:.2f} "
        f"standard deviations of a pixel from where many steps do, the best of the fixed grids "
        f"{tuned.fixed[tuned.best].value:.2f}. The run has seen {model.seen:,} examples; seed 4."
    )
    alt = "Three rows of ten digits, by many steps and by few"
    return Shown(sheet(rows, side=64), alt, caption)


if __name__ == "__main__":
    main("distilling", make)
