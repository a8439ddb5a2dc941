#!/usr/bin/env python3
"""Writes docs/reference/grpc.md and docs/reference/grpc_internal.md from the comments of the protos.

python tools/grpc_reference.py FOLDER
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

PROTOS = Path(__file__).parents[1] / "protos"
NOTE = "<!-- Written by `make reference` from the comments of the protos; edit these. -->"
PAGES = {
    "grpc.md": ("gRPC API", ("inference", "kv_events")),
    "grpc_internal.md": ("gRPC between the services", ("scheduler", "executor", "logprobs")),
}
PACKAGES = (".quire.v1.", ".quire.internal.v1.")
# Numbers of the fields of descriptor.proto, of which the paths of comments consist.
FILE_MESSAGES, FILE_ENUMS, FILE_SERVICES, FILE_SYNTAX = 4, 5, 6, 12
MESSAGE_FIELDS, ENUM_VALUES, SERVICE_METHODS, MESSAGE_ONEOFS = 2, 2, 2, 8

Comments = Mapping[tuple[int, ...], str]


def grpc_pages() -> dict[str, str]:
    """The pages by file name."""
    files = {Path(each.name).stem: each for each in _descriptors().file}
    homes = {
        name: page
        for page, (_, stems) in PAGES.items()
        for stem in stems
        for name in [each.name for kind in (files[stem].message_type, files[stem].enum_type) for each in kind]
    }
    pages = {}
    for page, (title, stems) in PAGES.items():
        links = {name: f"[{name}]({'' if home == page else home}#{name.lower()})" for name, home in homes.items()}
        parts = [part for stem in stems for part in _File(files[stem], links).parts()]
        pages[page] = "\n\n".join([f"# {title}", NOTE, *parts]) + "\n"
    return pages


def _descriptors() -> FileDescriptorSet:
    include = Path(grpc_tools.__file__).parent / "_proto"
    files = sorted(str(path) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "protos"
        flags = [f"-I{PROTOS}", f"-I{include}", "--include_source_info", f"--descriptor_set_out={out}"]
        if protoc.main(["protoc", *flags, *files]) != 0:
            raise RuntimeError(f"protoc failed on {files}")
        return FileDescriptorSet.FromString(out.read_bytes())


class _File:
    """One proto file in Markdown."""

    def __init__(self, file: FileDescriptorProto, links: Mapping[str, str]) -> None:
        self._file = file
        self._links = links
        # A comment's path leads from the file to what it describes: field numbers and indices in turns.
        self._comments: Comments = {
            tuple(each.path): " ".join(each.leading_comments.split()) for each in file.source_code_info.location
        }

    def parts(self) -> Iterator[str]:
        """What the file says of itself, then services, enums and messages."""
        yield f"`protos/{self._file.name}`: {self._comment(FILE_SYNTAX)}"
        for index, service in enumerate(self._file.service):
            yield from self._service((FILE_SERVICES, index), service)
        for index, enum in enumerate(self._file.enum_type):
            yield from self._enum((FILE_ENUMS, index), enum)
        for index, message in enumerate(self._file.message_type):
            yield from self._message((FILE_MESSAGES, index), message)

    def _service(self, path: tuple[int, ...], service: ServiceDescriptorProto) -> Iterator[str]:
        yield from self._heading(path, service.name)
        rows = []
        for index, method in enumerate(service.method):
            taken = ("stream " if method.client_streaming else "") + self._type(method.input_type)
            given = ("stream " if method.server_streaming else "") + self._type(method.output_type)
            rows.append((f"`{method.name}`", taken, given, self._comment(*path, SERVICE_METHODS, index)))
        yield _table(("method", "takes", "returns", ""), rows)

    def _enum(self, path: tuple[int, ...], enum: EnumDescriptorProto) -> Iterator[str]:
        yield from self._heading(path, enum.name)
        values = enumerate(enum.value)
        yield _table(
            ("value", "number", ""),
            [(f"`{each.name}`", f"{each.number}", self._comment(*path, ENUM_VALUES, index)) for index, each in values],
        )

    def _message(self, path: tuple[int, ...], message: DescriptorProto) -> Iterator[str]:
        yield from self._heading(path, message.name)
        fields = enumerate(message.field)
        rows = [
            (f"`{each.name}`", f"{each.number}", self._field_type(each), self._field_comment(path, message, index))
            for index, each in fields
        ]
        yield _table(("field", "number", "type", ""), rows) if rows else "No fields."

    def _heading(self, path: tuple[int, ...], name: str) -> Iterator[str]:
        yield f"## {name}"
        if comment := self._comment(*path):
            yield comment

    def _field_type(self, field: FieldDescriptorProto) -> str:
        name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        kind = self._type(field.type_name) if field.type_name else f"`{name}`"
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {kind}"
        return f"optional {kind}" if field.proto3_optional else kind

    def _field_comment(self, path: tuple[int, ...], message: DescriptorProto, index: int) -> str:
        field = message.field[index]
        comment = self._comment(*path, MESSAGE_FIELDS, index)
        if not field.HasField("oneof_index") or field.proto3_optional:
            return comment
        choice = f"One of `{message.oneof_decl[field.oneof_index].name}`."
        return " ".join(filter(None, (choice, self._comment(*path, MESSAGE_ONEOFS, field.oneof_index), comment)))

    def _type(self, name: str) -> str:
        short = next((name.removeprefix(each) for each in PACKAGES if name.startswith(each)), name)
        return self._links.get(short, f"`{short.removeprefix('.')}`")

    def _comment(self, *path: int) -> str:
        return self._comments.get(path, "").replace("|", "\\|")


def _table(heading: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (heading, *rows)]
    return "\n".join([lines[0], "|---" * len(heading) + "|", *lines[1:]])


if __name__ == "__main__":
    for page, text in grpc_pages().items():
        (Path(sys.argv[1]) / page).write_text(text)
