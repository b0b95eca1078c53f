"""Write exchange/v1 from proto/, or (--check) lint proto/ and see that exchange/v1 is fresh.

buf/validate/validate.proto is taken from the installed protovalidate, so that the rules that we
compile against are the ones that it enforces.
"""

from __future__ import annotations

import argparse
import importlib.resources
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate.validate_pb import FieldRules

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
OUT = ROOT / "exchange" / "v1"
VALIDATE = "buf/validate/validate.proto"
# protoc names Python modules after proto packages; the house keeps them in exchange/v1.
IMPORTS = [
    (re.compile(r"^from tongxing\.v1 import", re.MULTILINE), "from exchange.v1 import"),
    (re.compile(r"^from buf\.validate import", re.MULTILINE), "from exchange.v1 import"),
]


def descriptors() -> bytes:
    """All of proto/ and what it imports, as one FileDescriptorSet with comments."""
    installed = str(importlib.resources.files("google").joinpath("..").resolve())
    bundled = str(importlib.resources.files("grpc_tools") / "_proto")
    with tempfile.TemporaryDirectory() as scratch:
        known = Path(scratch, "known.binpb")
        # protoc reads a file either from a descriptor set or from a folder, so the set must hold
        # all that validate.proto itself imports.
        validate = descriptor_pb2.FileDescriptorProto.FromString(
            FieldRules.desc().file.proto.to_binary()
        )
        run("-I", bundled, "-o", known, "--include_imports", *validate.dependency)
        base = descriptor_pb2.FileDescriptorSet.FromString(known.read_bytes())
        base.file.append(validate)
        known.write_bytes(base.SerializeToString())
        rpc = Path(scratch, "rpc.binpb")
        run(
            "-I",
            installed,
            "-I",
            bundled,
            "-o",
            rpc,
            "--include_imports",
            "google/rpc/status.proto",
        )
        names = {file.name for file in base.file}
        base.file.extend(
            file
            for file in descriptor_pb2.FileDescriptorSet.FromString(rpc.read_bytes()).file
            if file.name not in names
        )
        known.write_bytes(base.SerializeToString())
        image = Path(scratch, "image.binpb")
        run(
            *("--descriptor_set_in", known, "-I", PROTO, "-o", image),
            *("--include_imports", "--include_source_info"),
            *sorted(PROTO.glob("tongxing/v1/*.proto")),
        )
        return image.read_bytes()


def run(*arguments: object) -> None:
    """Run protoc."""
    if protoc.main(["protoc", *map(str, arguments)]):
        sys.exit("protoc refused proto/: see above")


def generated(image: Path) -> dict[str, str]:
    """Every file of exchange/v1, by its name."""
    with tempfile.TemporaryDirectory() as out:
        names = [f"tongxing/v1/{path.name}" for path in sorted(PROTO.glob("tongxing/v1/*.proto"))]
        run("--descriptor_set_in", image, f"--python_out=pyi_out:{out}", *names, VALIDATE)
        files = {path.name: path.read_text() for path in Path(out).rglob("*.py*")}
    for pattern, new in IMPORTS:
        files = {name: pattern.sub(new, text) for name, text in files.items()}
    files["__init__.py"] = '"""Generated from proto/ by `make proto`: do not edit."""\n'
    return dict(sorted(files.items()))


def main() -> None:
    """Generate or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if not fresh")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch, "image.binpb")
        image.write_bytes(descriptors())
        files = generated(image)
        if not check:
            for old in OUT.glob("*.py*"):
                old.unlink()
            for name, text in files.items():
                (OUT / name).write_text(text)
            print(f"wrote {len(files)} files into {OUT.relative_to(ROOT)}")
            return
        buf = Path(sys.executable).parent / "buf"
        for command in (
            ["lint", image, "--config", PROTO / "buf.yaml", "--path", "tongxing/v1"],
            ["format", "--diff", "--exit-code", PROTO],
        ):
            if subprocess.run([buf, *command], check=False).returncode:
                sys.exit(f"buf {command[0]} refused proto/: see above")
    stale = [name for name, text in files.items() if not same(OUT / name, text)]
    stale += [path.name for path in OUT.glob("*.py*") if path.name not in files]
    if stale:
        sys.exit(f"exchange/v1 is not fresh ({', '.join(stale)}): run `make proto`")


def same(path: Path, text: str) -> bool:
    """Whether the file holds the text."""
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    main()
