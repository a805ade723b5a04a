"""Around every call: who may make it, and what a failure looks like to the host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from agents.faults import AgentError, Fault, one_line

_log = logging.getLogger("quantrig.agent")
_STATUS = {code.value[0]: code for code in grpc.StatusCode}

#: The one name a host's certificate must carry, as a URI among its subject's alternative names.
HOST_ROLE = "quantrig://host"
#: Key of gRPC's auth context for names of the kind URI only; a DNS name spelled like one is not among them.
_URI_NAMES = "peer_uri"

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
if TYPE_CHECKING:  # generic in the stubs only
    _Handler = grpc.RpcMethodHandler[_Request, _Response]
    _Continuation = Callable[[grpc.HandlerCallDetails], _Handler[_Request, _Response] | None]


class CallInterceptor(grpc.ServerInterceptor):
    """Checks the caller's role where TLS is on, and turns every failure into a status of one line.

    Args:
        role_required: whether a client certificate must name `HOST_ROLE`.
    """

    def __init__(self, role_required: bool) -> None:
        self._role_required = role_required

    def intercept_service(
        self,
        continuation: _Continuation[_Request, _Response],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler[_Request, _Response] | None:
        """Wrap the handler, whatever its kind, those of health and reflection included."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        kinds = {
            (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler, self._single),
            (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler, self._stream),
            (True, False): (handler.stream_unary, grpc.stream_unary_rpc_method_handler, self._single),
            (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler, self._stream),
        }
        behaviour, make, wrap = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
        make_any: Any = make  # four factories that differ only in the type of the behaviour
        wrap_any: Any = wrap
        wrapped: _Handler[_Request, _Response] = make_any(
            wrap_any(behaviour), handler.request_deserializer, handler.response_serializer
        )
        return wrapped

    def _single(self, behaviour: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[..., Any]:
        def answer(request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any message
            try:
                self._check(context)
                return behaviour(request, context)
            except Exception as error:  # noqa: BLE001 - the outermost place: a call must never take the agent down
                failure = error
            return _abort(context, failure)

        return answer

    def _stream(self, behaviour: Callable[[Any, grpc.ServicerContext], Iterator[Any]]) -> Callable[..., Any]:
        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401 - any message
            try:
                self._check(context)
                yield from behaviour(request, context)
                return
            except Exception as error:  # noqa: BLE001 - as above
                failure = error
            _abort(context, failure)

        return answer

    def _check(self, context: grpc.ServicerContext) -> None:
        if self._role_required and not has_host_role(context.auth_context()):
            message = f"the client certificate does not name {HOST_ROLE}: use one that the lab issued to a host"
            raise AgentError(Fault.FORBIDDEN, message)


def has_host_role(auth: object) -> bool:
    """Whether the peer's certificate carries the host's URI, and no other URI beside it.

    Args:
        auth: what `ServicerContext.auth_context()` gives: lists of bytes by key.
    """
    return isinstance(auth, dict) and list(auth.get(_URI_NAMES, ())) == [HOST_ROLE.encode()]


def _abort(context: grpc.ServicerContext, failure: Exception) -> None:
    """End the call with the status that fits the failure."""
    if isinstance(failure, AgentError):
        _log.info("%s: %s", failure.fault.name, failure.message)
        context.abort(_STATUS[failure.fault], failure.message)
    if not context.is_active():
        _log.info("a host left in the middle of a call")  # noticed while reading or writing its stream
        context.abort(grpc.StatusCode.CANCELLED, "the call was cut")
    _log.error("a call failed by a fault of the agent", exc_info=failure)
    context.abort(grpc.StatusCode.INTERNAL, one_line(f"a fault of the agent: {type(failure).__name__}: {failure}"))
