"""``python -m atoll.platform.reference``: write the files of keys and names from the code.

Run it after a change of settings, of a docstring that describes them, or of a name. A test fails
where the files differ from the code.
"""

from __future__ import annotations

import dataclasses

from atoll.files.atomic import write_json
from atoll.platform.reference import experiment_keys, names
from atoll.platform.reference.described_names import described_names
from atoll.platform.reference.settings_classes import described_sections


def main() -> None:
    """Write both files."""
    sections = described_sections()
    write_json(
        experiment_keys.FILE, {name: dataclasses.asdict(kept) for name, kept in sections.items()}
    )
    described = described_names()
    keys = dict.fromkeys(
        key for named in described.values() for n in named.values() for key in n.keys
    )
    place = {key: index for index, key in enumerate(keys)}
    kinds = {
        kind: {
            name: {**dataclasses.asdict(kept), "keys": [place[key] for key in kept.keys]}
            for name, kept in named.items()
        }
        for kind, named in described.items()
    }
    write_json(
        names.FILE,
        {
            "versions": names.versions(),
            "keys": [dataclasses.asdict(key) for key in keys],
            "names": kinds,
        },
    )


if __name__ == "__main__":
    main()
