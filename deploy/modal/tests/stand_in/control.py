"""Modal's control plane, as far as the app uses it: gRPC over loopback, with everything in memory."""

import asyncio
import inspect
import os
import pickle

from google.protobuf import empty_pb2
from grpclib import GRPCError, Status
from grpclib.server import Server
from modal._serialization import deserialize_proto_params
from modal_proto import api_grpc, api_pb2

DONE = api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)


class Call:
    """A call of a function: one input and its result."""

    def __init__(self, name, method, arguments):
        self.name, self.method, self.arguments = name, method, arguments
        self.chunks = []
        self.result = None
        self.format = api_pb2.DATA_FORMAT_PICKLE
        self.changed = asyncio.Event()
        self.task = None
        self.forgotten = False

    def tell(self):
        self.changed.set()
        self.changed = asyncio.Event()

    def end(self, result, data_format=api_pb2.DATA_FORMAT_PICKLE):
        """The first end counts."""
        if self.result is None:
            self.result, self.format = result, data_format
            self.tell()


def unary(answer):
    """An answer to one request."""

    async def call(self, stream):
        request = await stream.recv_message()
        reply = answer(self, request)
        await stream.send_message(await reply if inspect.isawaitable(reply) else reply)

    return call


class Control(api_grpc.ModalClientBase):
    """The calls. What the app never does is refused as `UNIMPLEMENTED`, so that a new use is noticed."""

    def __init__(self):
        self.functions = {}
        self.classes = {}
        self.bound = {}
        self.images = []
        self.dicts = {}
        self.calls = {}
        self.published = None
        self.pools = None

    # ------------------------------------------------------------------ deploying

    ClientHello = unary(lambda self, _: api_pb2.ClientHelloResponse())
    AuthTokenGet = unary(lambda self, _: api_pb2.AuthTokenGetResponse(token="e30.eyJleHAiOjk5OTk5OTk5OTl9.e30"))
    AppGetByDeploymentName = unary(lambda self, _: api_pb2.AppGetByDeploymentNameResponse())
    AppCreate = unary(lambda self, _: api_pb2.AppCreateResponse(app_id="ap-1"))
    AppHeartbeat = unary(lambda self, _: empty_pb2.Empty())
    AppClientDisconnect = unary(lambda self, _: empty_pb2.Empty())
    AppSetTags = unary(lambda self, _: empty_pb2.Empty())
    MountPutFile = unary(lambda self, _: api_pb2.MountPutFileResponse(exists=True))
    MountBatchedCheckExistence = unary(lambda self, _: api_pb2.MountBatchedCheckExistenceResponse())
    VolumeGetOrCreate = unary(
        lambda self, request: api_pb2.VolumeGetOrCreateResponse(
            volume_id="vo-1", metadata=api_pb2.VolumeMetadata(name=request.deployment_name)
        )
    )

    @unary
    def EnvironmentGetOrCreate(self, request):
        settings = api_pb2.EnvironmentSettings(image_builder_version="2025.06", webhook_suffix="")
        metadata = api_pb2.EnvironmentMetadata(name=request.deployment_name or "main", settings=settings)
        return api_pb2.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata)

    @unary
    def MountGetOrCreate(self, request):
        metadata = api_pb2.MountHandleMetadata(content_checksum_sha256_hex="0" * 64)
        return api_pb2.MountGetOrCreateResponse(mount_id=f"mo-{request.deployment_name or 'own'}", handle_metadata=metadata)

    @unary
    def ImageGetOrCreate(self, request):
        self.images.append(request.image)
        return api_pb2.ImageGetOrCreateResponse(image_id=f"im-{len(self.images)}", result=DONE)

    @unary
    def FunctionPrecreate(self, request):
        name = f"fu-{request.function_name}"
        metadata = api_pb2.FunctionHandleMetadata(
            function_name=request.function_name, function_type=request.function_type, definition_id=f"de-{name}",
            app_id="ap-1", supported_input_formats=request.supported_input_formats,
            supported_output_formats=request.supported_output_formats,
        )
        for method, definition in request.method_definitions.items():
            metadata.method_handle_metadata[method].CopyFrom(api_pb2.FunctionHandleMetadata(
                function_name=definition.function_name, function_type=definition.function_type, is_method=True,
                use_method_name=method, supported_input_formats=definition.supported_input_formats,
                supported_output_formats=definition.supported_output_formats,
            ))
        self.functions[name] = {"metadata": metadata}
        return api_pb2.FunctionPrecreateResponse(function_id=name, handle_metadata=metadata)

    @unary
    def FunctionCreate(self, request):
        name = request.existing_function_id
        function = self.functions[name]
        function["definition"] = request.function
        metadata = function["metadata"]
        metadata.class_parameter_info.CopyFrom(request.function.class_parameter_info)
        ranked = api_pb2.FunctionData.RankedFunction(rank=0, function=request.function)
        data = api_pb2.FunctionData(function_name=request.function.function_name, ranked_functions=[ranked])
        return api_pb2.FunctionCreateResponse(function_id=name, handle_metadata=metadata, function_data=data)

    @unary
    def ClassCreate(self, request):
        service = next(name for name, function in self.functions.items() if function["metadata"].method_handle_metadata)
        metadata = api_pb2.ClassHandleMetadata(
            class_function_id=service, class_function_metadata=self.functions[service]["metadata"]
        )
        return api_pb2.ClassCreateResponse(class_id="cs-1", handle_metadata=metadata)

    @unary
    def AppPublish(self, request):
        self.published = request
        return api_pb2.AppPublishResponse(url="https://modal.com/apps/ap-1", deployed_at=1.0)

    @unary
    def FunctionBindParams(self, request):
        function = self.functions[request.function_id]
        parameters = deserialize_proto_params(request.serialized_params)
        name = f"{request.function_id}-{parameters['model']}"
        metadata = api_pb2.FunctionHandleMetadata()
        metadata.CopyFrom(function["metadata"])
        self.bound[name] = {"parameters": parameters, "options": request.function_options}
        self.pools.bind(name, parameters["model"])
        return api_pb2.FunctionBindParamsResponse(bound_function_id=name, handle_metadata=metadata)

    # ------------------------------------------------------------------ calling

    @unary
    def FunctionMap(self, request):
        call = Call(f"fc-{len(self.calls) + 1:08}", "", None)
        self.calls[call.name] = call
        answer = api_pb2.FunctionMapResponse(function_call_id=call.name)
        for item in request.pipelined_inputs:
            arguments, keywords = pickle.loads(item.input.args)
            call.method, call.arguments = item.input.method_name, (arguments, keywords)
            answer.pipelined_inputs.add(idx=item.idx, input_id=f"in-{call.name}", input_jwt="")
            self.pools.put(request.function_id, call)
        return answer

    @unary
    async def FunctionGetOutputs(self, request):
        call = self._call(request.function_call_id)
        if call.result is None and request.timeout > 0:
            try:
                async with asyncio.timeout(request.timeout):
                    while call.result is None:
                        await call.changed.wait()
            except TimeoutError:
                pass
        if call.forgotten:
            return api_pb2.FunctionGetOutputsResponse(num_unfinished_inputs=0)
        if call.result is None:
            return api_pb2.FunctionGetOutputsResponse(num_unfinished_inputs=1)
        item = api_pb2.FunctionGetOutputsItem(result=call.result, idx=0, data_format=call.format)
        return api_pb2.FunctionGetOutputsResponse(outputs=[item], idxs=[0])

    async def FunctionCallGetDataOut(self, stream):
        request = await stream.recv_message()
        call = self._call(request.function_call_id)
        sent = request.last_index
        while True:
            changed = call.changed
            while sent < len(call.chunks):
                await stream.send_message(call.chunks[sent])
                sent += 1
            if call.result is not None:
                return
            await changed.wait()

    @unary
    def FunctionCallCancel(self, request):
        call = self._call(request.function_call_id)
        self.pools.cancel(call)
        return empty_pb2.Empty()

    @unary
    def FunctionUpdateSchedulingParams(self, request):
        self.pools.keep(request.function_id, request.settings.min_containers)
        return api_pb2.FunctionUpdateSchedulingParamsResponse(current_settings=request.settings)

    @unary
    def FunctionGetCurrentStats(self, request):
        return api_pb2.FunctionStats(num_total_tasks=self.pools.count(request.function_id))

    def _call(self, name):
        if name not in self.calls:
            raise GRPCError(Status.NOT_FOUND, f"no such call: {name}")
        return self.calls[name]

    # ------------------------------------------------------------------ modal.Dict

    @unary
    def DictGetOrCreate(self, request):
        name = f"di-{request.deployment_name}"
        self.dicts.setdefault(name, {})
        return api_pb2.DictGetOrCreateResponse(dict_id=name, metadata=api_pb2.DictMetadata(name=request.deployment_name))

    @unary
    def DictGet(self, request):
        value = self.dicts[request.dict_id].get(request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    @unary
    def DictUpdate(self, request):
        entries = self.dicts[request.dict_id]
        if request.if_not_exists and any(entry.key in entries for entry in request.updates):
            return api_pb2.DictUpdateResponse(created=False)
        entries.update((entry.key, entry.value) for entry in request.updates)
        return api_pb2.DictUpdateResponse(created=True)

    @unary
    def DictPop(self, request):
        value = self.dicts[request.dict_id].pop(request.key, None)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    async def DictContents(self, stream):
        request = await stream.recv_message()
        for key, value in list(self.dicts[request.dict_id].items()):
            await stream.send_message(api_pb2.DictEntry(key=key, value=value))


def refusal(name):
    async def call(self, stream):
        raise GRPCError(Status.UNIMPLEMENTED, f"the stand-in has no {name}")

    return call


for unused in Control.__abstractmethods__:
    setattr(Control, unused, refusal(unused))
Control.__abstractmethods__ = frozenset()


async def served(control):
    """Starts the control plane, and sends the package there."""
    server = Server([control])
    await server.start("127.0.0.1", 0)
    port = server._server.sockets[0].getsockname()[1]
    os.environ.update(
        MODAL_SERVER_URL=f"http://127.0.0.1:{port}", MODAL_TOKEN_ID="ak-1", MODAL_TOKEN_SECRET="as-1",
        MODAL_CONFIG_PATH=os.devnull, MODAL_LOGLEVEL="ERROR",
    )
    return server
