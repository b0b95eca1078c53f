"""Settings files: TOML, read into a frozen pydantic model.

Relative paths are relative to the file; a field that is wrong is named, one that is unknown too.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_settings import SettingsError

from exchange.errors import InvalidFieldError, TongxingError
from exchange.provinces import province

__all__ = ["ProvinceCode", "Section", "read"]

_Model = TypeVar("_Model", bound=BaseModel)


class Section(BaseModel):
    """A table of a settings file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _known_province(code: str) -> str:
    try:
        return province(code).code
    except TongxingError as error:
        raise ValueError(f"{error.message}; {error.remedy}") from None


ProvinceCode = Annotated[str, AfterValidator(_known_province)]
"""The GB/T 2260 code of a province."""


def read(path: Path, model: type[_Model]) -> _Model:
    """Read a settings file.

    :param model: what it holds; frozen.
    :raises InvalidFieldError: the file cannot be read, or a field is wrong; names it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidFieldError(error.strerror or "cannot be read", field=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidFieldError(f"not TOML: {error}", field=str(path)) from None
    try:
        settings = model(**values)
    except SettingsError as error:
        # A table or a list of the environment's that is not JSON; the error names it in quotes.
        raise InvalidFieldError(
            "the environment's value is not JSON",
            field=next(iter(str(error).split('"')[1:]), ""),
            remedy="name one field: TONGXING_LOG__LEVEL, for example",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidFieldError(
            message[0].lower() + message[1:], field=field, remedy=f"see {path}"
        ) from None
    return _resolved(settings, path.resolve().parent)


def _resolved(settings: _Model, base: Path) -> _Model:
    """The same with every path absolute."""

    def resolve(value: Any) -> Any:
        if isinstance(value, Path):
            return base / value
        if isinstance(value, tuple):
            return tuple(resolve(part) for part in value)
        return _resolved(value, base) if isinstance(value, BaseModel) else value

    fields = type(settings).model_fields
    return settings.model_copy(update={name: resolve(getattr(settings, name)) for name in fields})
