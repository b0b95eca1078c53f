"""A province's running node; `nodes/README.md` is its handbook."""

import os

# A node forks for one thing, to start its Valkey. gRPC's fork handlers would run in that child
# before it is Valkey, and have been seen to end it. Read by grpc when it is first imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# What gRPC's core would write to standard error is no JSON, and comes again as an error of ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
