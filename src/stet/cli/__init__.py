"""The command `stet`. Nothing slow is imported before a command runs, so that help is instant."""

from stet.cli import (
    calibrate,
    compare,
    demo,
    doctor,
    generate,
    policies,
    serve,
    train,
    tune_draft,
    warmup,
)
from stet.cli.application import app

# In the order in which a newcomer meets them.
app.command("demo")(demo.command)
app.command("generate")(generate.command)
app.command("doctor")(doctor.command)
app.command("warmup")(warmup.command)
app.command("serve")(serve.command)
app.command("compare")(compare.command)
app.command("calibrate")(calibrate.command)
app.command("train")(train.command)
app.command("tune-draft")(tune_draft.command)
app.command("policies")(policies.command)

__all__ = ["app"]
