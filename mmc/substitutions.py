"""Replace modules that torch cannot trace: `mmc.substitutions.register("package.module.Class", f)`.

`mmc.compile` replaces what is registered while it traces.  For torch.compile do it around the call:

    with mmc.substitutions.substituted(model) as (traceable, told):
        torch.compile(traceable, backend="mmc")(x)
"""

from __future__ import annotations

from mmc.frontends.substitute import Substituted, register, registered, substituted

__all__ = ["Substituted", "register", "registered", "substituted"]
