"""The protocol between host and agent: `agent.proto` and the code generated from it (`make proto`)."""

#: Raised when an older peer could misread a message. A host refuses an agent with a higher number.
PROTOCOL_VERSION = 1

#: The lowest that a host of this version still speaks to: raised only with a change that no default can bridge.
OLDEST_PROTOCOL_VERSION = 1

#: Largest payload of one UploadRequest.chunk or TensorPart.data, bytes. A quarter of gRPC's default message limit
#: of 4 MiB: large enough that the cost per message vanishes, small enough that a slow link shows progress.
CHUNK_BYTES = 1 << 20
