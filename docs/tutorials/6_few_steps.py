"""Tutorial 6: the same model, in fewer steps.

    python docs/tutorials/6_few_steps.py [FOLDER] [MINUTES]

What many steps draw, few can: by a better grid, which costs a minute and trains nothing, or by a
student, which learns to do in one step what its teacher does in several. Shown on digits, from the
same noise each time, so that the columns can be compared.
"""

import sys
import time
from pathlib import Path

import torch

import ornstein as ou

out = Path(sys.argv[1] if len(sys.argv) > 1 else "tutorial-6")
minutes = float(sys.argv[2]) if len(sys.argv) > 2 else 0.2
out.mkdir(parents=True, exist_ok=True)

# %% The teacher: a run like any other.
run = ou.train("digits", minutes=minutes, out=out / "teacher")
teacher = ou.load(run.path)
asked = {"count": 10, "label": range(10), "guidance": 1.0, "seed": 1}

# %% Fewer steps on the grid that it has, and on one that is fitted to it.
tuned = ou.tune(teacher, calls=4, examples=32, rounds=4)
print(*tuned.lines(), sep="\n")
rows = [ou.sample(teacher, **asked, sampler="unipc", steps=64)]
rows += [ou.sample(teacher, **asked, steps=4, time_grid="uniform")]
rows += [ou.sample(teacher, **asked, steps=4, time_grid="fitted")]

# %% A student of four steps, or of one, as it is asked. Each is graded beside its teacher. It sees
# half as many examples again as its teacher, in about four times the time, unless we say otherwise.
grades = ou.distill(teacher, (4, 1), seen=teacher.seen // 2, count=200, out=out / "students")
print(*(grade.line for grade in grades), sep="\n")

# %% A student is a run. One that is no better than its teacher in as many steps is not kept.
for grade in grades:
    if grade.folder is not None:
        rows.append(ou.sample(grade.folder, **asked, steps=grade.steps))
teacher.codec.preview(torch.cat([row.x for row in rows]), 10).save(out / "few.png")

# %% How long a digit takes, once the model is open.
for name, model, steps in [("teacher", teacher, 16)] + [
    (f"student of {g.steps}", ou.load(g.folder.path), g.steps) for g in grades if g.folder
]:
    ou.sample(model, 1, label=3, batch=1, steps=steps)
    began = time.perf_counter()
    for seed in range(5):
        ou.sample(model, 1, label=3, batch=1, steps=steps, seed=seed)
    print(f"{name}: {(time.perf_counter() - began) / 5 * 1000:.0f} ms a digit")
print(f"pictures in {out}")
