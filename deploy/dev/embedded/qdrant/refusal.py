"""How this server says no: every refusal carries a gRPC code and names the field. Nothing here is ignored silently."""

import grpc
from google.protobuf.unknown_fields import UnknownFieldSet

Code = grpc.StatusCode


class Refusal(Exception):
    """A request that is answered with a gRPC status instead of a result."""

    def __init__(self, code, detail):
        super().__init__(detail)
        self.code = code
        self.detail = detail


def invalid(detail):
    return Refusal(Code.INVALID_ARGUMENT, detail)


def unsupported(detail):
    return Refusal(Code.UNIMPLEMENTED, detail + " is not supported by this server")


def only(message, *allowed):
    """Refuses a message that sets any field outside `allowed`, or one that our copy of the protocol does not know."""
    name = message.DESCRIPTOR.name
    for field, _ in message.ListFields():
        if field.name not in allowed:
            raise unsupported(f"field {name}.{field.name}")
    for unknown in UnknownFieldSet(message):
        raise unsupported(f"field number {unknown.field_number} of {name} (unknown to this protocol version)")


def one_of(message, group):
    """The name of the member that is set in a oneof; unset is INVALID_ARGUMENT."""
    which = message.WhichOneof(group)
    if which is None:
        members = ", ".join(f.name for f in message.DESCRIPTOR.oneofs_by_name[group].fields)
        raise invalid(f"{message.DESCRIPTOR.name}.{group} is not set; one of {members} is needed")
    return which


_ENGINE = (
    ("No point with id", Code.NOT_FOUND),
    ("Vector dimension error", Code.INVALID_ARGUMENT),
    ("Not existing vector name", Code.INVALID_ARGUMENT),
    ("Wrong usage of", Code.INVALID_ARGUMENT),
    ("No range index", Code.INVALID_ARGUMENT),
    ("Shard is not initialized", Code.UNAVAILABLE),
)


def from_engine(error):
    """Turns what the engine raised into a Refusal. What we do not recognise is our fault, hence INTERNAL."""
    text = str(error)
    for prefix, code in _ENGINE:
        if prefix in text:
            return Refusal(code, text)
    if isinstance(error, (ValueError, TypeError, OverflowError)):
        return Refusal(Code.INVALID_ARGUMENT, text)
    return Refusal(Code.INTERNAL, f"{type(error).__name__}: {text}")
