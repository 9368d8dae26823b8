# SPDX-License-Identifier: Apache-2.0
"""Lets `codewithgpu.RecordWriter` and `RecordDataset` work under any protobuf from 3.20 on.

codewithgpu 0.2.8 brings message classes that were generated for protobuf 3; under later versions
they do not load, and each use of a writer or reader raises ImportError. `install` makes the same
classes from a description of the messages, which all versions take: at once where codewithgpu is
imported already, else when it is imported; codewithgpu and protobuf are not imported before that.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# Package, then message -> (field, number, type); a list is repeated, a tuple a map from string.
RECORD = (
    "codewithgpu",
    {
        "Feature": [
            ("s", 1, "bytes"),
            ("f", 2, "float"),
            ("i", 3, "int64"),
            ("feature_list", 4, "FeatureList"),
            ("feature_map", 5, "FeatureMap"),
        ],
        "FeatureList": [("container", 1, ["Feature"])],
        "FeatureMap": [("container", 1, ("string", "Feature"))],
    },
)
TF_RECORD = (
    "codewithgpu.tensorflow",
    {
        "BytesList": [("value", 1, ["bytes"])],
        "FloatList": [("value", 1, ["float"])],
        "Int64List": [("value", 1, ["int64"])],
        "Feature": [
            ("bytes_list", 1, "BytesList"),
            ("float_list", 2, "FloatList"),
            ("int64_list", 3, "Int64List"),
        ],
        "Features": [("feature", 1, ("string", "Feature"))],
        "Example": [("features", 1, "Features")],
    },
)
MESSAGES = {
    "codewithgpu.data.record_pb2": RECORD,
    "codewithgpu.data.tf_record_pb2": TF_RECORD,
}
USERS = ("codewithgpu.data.record", "codewithgpu.data.tf_record", "codewithgpu.data.dataset")


def install() -> None:
    """Provide the message classes from now on; again: nothing."""
    if not any(isinstance(finder, MessageFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MessageFinder())
    for user in USERS:
        if user in sys.modules:
            _mend(sys.modules[user])


def _mend(user: ModuleType) -> None:
    """Replace codewithgpu's stand-ins for modules that did not load."""
    for path in MESSAGES:
        name = path.rpartition(".")[2]
        held = getattr(user, name, None)
        if held is not None and not isinstance(held, ModuleType):
            setattr(user, name, __import__(path, fromlist=["*"]))


class MessageFinder(MetaPathFinder, Loader):
    """Makes the modules of message classes in place of the files that codewithgpu brings."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MESSAGES else None

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(message_classes(*MESSAGES[module.__name__]))


def message_classes(package: str, messages: dict[str, list]) -> dict[str, type]:
    """Build protobuf classes in a pool of their own.

    Args:
        package: the package of the messages.
        messages: name -> fields, as `RECORD` above; several fields of message or scalar type
            without repetition, as in both `Feature`s, form one choice, `kind`.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name=package.replace(".", "/") + ".proto", package=package, syntax="proto3"
    )
    for name, fields in messages.items():
        _describe(file.message_type.add(name=name), fields, package)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    if hasattr(message_factory, "GetMessageClass"):
        make = message_factory.GetMessageClass
    else:  # protobuf before 4.22
        make = message_factory.MessageFactory(pool).GetPrototype
    return {name: make(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}


def _describe(message: Any, fields: list, package: str) -> None:
    choice = len(fields) > 1
    if choice:
        message.oneof_decl.add(name="kind")
    for name, number, kind in fields:
        field = message.field.add(name=name, number=number, label=1)  # 1: at most once
        if isinstance(kind, tuple):
            entry = message.nested_type.add(name=name.capitalize() + "Entry")
            entry.options.map_entry = True
            _describe_fields(entry, zip(("key", "value"), (1, 2), kind, strict=True), package)
            kind = [f"{message.name}.{entry.name}"]
        if isinstance(kind, list):
            field.label = 3  # repeated
            kind = kind[0]
        elif choice:
            field.oneof_index = 0
        _set_type(field, kind, package)


def _describe_fields(message: Any, fields: Any, package: str) -> None:
    for name, number, kind in fields:
        _set_type(message.field.add(name=name, number=number, label=1), kind, package)


def _set_type(field: Any, kind: str, package: str) -> None:
    scalar = {"float": 2, "int64": 3, "string": 9, "bytes": 12}  # numbers of protobuf's own types
    if kind in scalar:
        field.type = scalar[kind]
    else:
        field.type = 11  # a message
        field.type_name = f".{package}.{kind}"
