"""Refusals in the shape that vLLM gives them."""

import msgspec

TYPES = {
    400: "BadRequestError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    500: "InternalServerError",
    503: "Service Unavailable",
}


class Refused(Exception):
    """A request that is answered with an error. `kind` is the `type` of the error object."""

    def __init__(self, message: str, status: int = 400, param: str | None = None, kind: str = "") -> None:
        super().__init__(message)
        self.message, self.status, self.param = message, status, param
        self.kind = kind or TYPES.get(status, "InternalServerError")

    def body(self) -> bytes:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return msgspec.json.encode({"error": error})


def invalid(kind: str, where: str, what: str) -> Refused:
    """A body that fails the engine's validation."""
    shown = f"1 validation error:\n  {{'type': '{kind}', 'loc': '{where}', 'msg': '{what}'}}"
    return Refused(shown, param=where, kind="Bad Request")


def out_of_range(name: str, value: object, what: str) -> Refused:
    """A value the engine does not take."""
    return Refused(f"{what} (parameter={name}, value={value})", param=name)


def unknown_model(name: str, known: str) -> Refused:
    return Refused(f"The model `{name}` does not exist. Valid aliases: {known}.", 404, "model")
