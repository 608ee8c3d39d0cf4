"""What an onlooker can make of clients' updates: attacks by name, on captures of real runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll.registry import Registry

if TYPE_CHECKING:
    from atoll.attacks.attack import Attack

ATTACKS: Registry[type[Attack]] = Registry(
    "attack",
    {
        "dlg": "atoll.attacks.dlg:DLG",
        "idlg": "atoll.attacks.dlg:IDLG",
        "inverting-gradients": "atoll.attacks.inverting_gradients:InvertingGradients",
    },
)
