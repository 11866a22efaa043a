"""Calls of routes without FastAPI's routing and its solver of dependencies, which cost more than a small answer.

A request qualifies if each of its parameters is known, is given once, and needs no conversion except for plain digits.
FastAPI handles all other requests, including invalid requests. Both paths call the same function with the same
arguments.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, Literal, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.params import Depends, Query

from tickerplant.api.http.answer_cache import ANSWER, AnswerCache, key_of
from tickerplant.api.http.asgi import App, Receive, Scope, Send
from tickerplant.api.http.auth import KEY_PARAMETER
from tickerplant.api.http.errors import ApiError, error_answer
from tickerplant.api.http.lanes import LaneRoute, run_in_lane
from tickerplant.core.errors import TickerplantError

DIGITS: Final = re.compile(r"[0-9]{1,9}\Z")

Call = Callable[[], Coroutine[Any, Any, Response]]
Read = Callable[[str], Any]
"""Function that returns the value of a parameter's text; None if the text needs FastAPI."""


def _reader(annotation: Any) -> Read | None:
    """Return the function that reads a parameter of this type; None if only FastAPI can read it."""
    if get_origin(annotation) is Literal:
        choices = frozenset(get_args(annotation))
        return lambda text: text if text in choices else None
    if annotation is int or set(get_args(annotation)) == {int, type(None)}:
        return lambda text: int(text) if DIGITS.match(text) else None
    if annotation is str or set(get_args(annotation)) == {str, type(None)}:
        return lambda text: text or None
    return None


def _parts(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type and the marks of an `Annotated` type; for another type, the type and ()."""
    marks: tuple[Any, ...] = getattr(annotation, "__metadata__", ())
    return (annotation.__origin__ if marks else annotation), marks


@dataclasses.dataclass(frozen=True, slots=True)
class _Parameter:
    """A query parameter: the argument or field that it sets, and the function that reads its text."""

    group: str
    """Name of the argument whose dataclass has the field; "" for an argument of the route's function."""
    name: str
    read: Read


class DirectCall:
    """The call of one route. Raises TypeError for a route that only FastAPI can call."""

    def __init__(self, route: LaneRoute) -> None:
        self.route = route
        self._groups: dict[str, type[Any]] = {}
        self._parameters: dict[str, _Parameter] = {}
        self._request = ""
        signature = inspect.signature(route.endpoint, eval_str=True)
        for name, parameter in signature.parameters.items():
            kind, marks = _parts(parameter.annotation)
            if kind is Request:
                self._request = name
            elif f"{{{name}" in route.path:
                if kind is not str:
                    raise TypeError(f"{route.path}: {name} is no text")
            elif any(isinstance(mark, Depends) for mark in marks):
                if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
                    raise TypeError(f"{route.path}: {name} is no dataclass")
                self._groups[name] = kind
                for field_name, field in inspect.signature(kind, eval_str=True).parameters.items():
                    self._add(name, field_name, field)
            else:
                self._add("", name, parameter)

    def _add(self, group: str, name: str, parameter: inspect.Parameter) -> None:
        kind, marks = _parts(parameter.annotation)
        read = _reader(kind)
        alias = next((mark.alias for mark in marks if isinstance(mark, Query) and mark.alias), name)
        if read is None or parameter.default is parameter.empty or alias in self._parameters:
            raise TypeError(f"{self.route.path}: {name} needs FastAPI")
        self._parameters[alias] = _Parameter(group, name, read)

    def bind(self, request: Request, path: Mapping[str, str], query: Mapping[str, str]) -> Call | None:
        """Return a function that calls the route; None if the request needs FastAPI."""
        own: dict[str, Any] = {**path, self._request: request} if self._request else dict(path)
        grouped: dict[str, dict[str, Any]] = {name: {} for name in self._groups}
        for alias, text in query.items():
            if alias == KEY_PARAMETER:
                continue
            parameter = self._parameters.get(alias)
            value = None if parameter is None else parameter.read(text)
            if parameter is None or value is None:
                return None
            (grouped[parameter.group] if parameter.group else own)[parameter.name] = value
        endpoint = self.route.endpoint

        async def call() -> Response:
            made = {name: self._groups[name](**fields) for name, fields in grouped.items()}
            response: Response = await endpoint(**own, **made)
            return response

        return call


class DirectRoutes:
    """The innermost middleware. It sends kept answers, and calls the routes which `DirectCall` can call."""

    def __init__(self, app: App, routes: Iterable[Any], answers: AnswerCache) -> None:
        self._app = app
        self._answers = answers
        self._calls: list[tuple[Any, DirectCall | None]] = []
        for route in routes:
            if isinstance(route, LaneRoute) and "GET" in (route.methods or ()):
                try:
                    self._calls.append((route.path_regex, DirectCall(route)))
                except TypeError:
                    self._calls.append((route.path_regex, None))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send a kept answer, or answer the request, or call FastAPI."""
        is_read = scope["type"] == "http" and scope["method"] == "GET"
        if is_read and (answer := self._answers.find(key_of(scope))) is not None:
            self._answers.hits += 1
            scope["route"], scope[ANSWER] = answer.route, answer
            await answer.send(send)
            return
        bound = self._bind(scope, receive) if is_read else None
        if bound is None:
            await self._app(scope, receive, send)
            return
        request, call = bound
        try:
            response = await run_in_lane(request, call)
        except (ApiError, TickerplantError) as error:
            response = error_answer(error)
        await response(scope, receive, send)

    def _bind(self, scope: Scope, receive: Receive) -> tuple[Request, Call] | None:
        """Return the request and its call; None if the request needs FastAPI."""
        for pattern, call in self._calls:
            match = pattern.match(scope["path"])
            if match is None:
                continue
            if call is None:
                return None
            pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            query = dict(pairs)
            request = Request(scope, receive)
            made = call.bind(request, match.groupdict(), query) if len(query) == len(pairs) else None
            if made is None:
                return None
            scope["route"], scope["path_params"] = call.route, match.groupdict()
            return request, made
        return None
