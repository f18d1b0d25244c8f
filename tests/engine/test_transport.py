"""Messages survive the border unchanged, and a peer that ends is noticed at once."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from engine.ipc.channel import Address, Channel, ChannelClosedError, process_handle
from engine.messages import (
    AbortRequest,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    FromCore,
    SchedulerStats,
    ToCore,
    WireError,
    decoder,
    encoder,
)


def test_arrays_and_nested_structs_round_trip() -> None:
    request = EngineCoreRequest("c", np.arange(5, dtype=np.int32), np.array([2, 3], np.int32), 1.5, -3)
    back = decoder(ToCore).decode(encoder().encode(request))
    assert isinstance(back, EngineCoreRequest)
    assert back.token_ids.tolist() == [0, 1, 2, 3, 4]
    assert (back.call_id, back.arrival_s, back.priority, back.num_pairs) == ("c", 1.5, -3, 2)
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    output = EngineCoreOutput("c", np.array([0, 2, 5], np.int32), values, {1: WireError("step_failed", "no")})
    outputs = decoder(FromCore).decode(encoder().encode(EngineCoreOutputs([output], SchedulerStats(num_steps=7))))
    assert isinstance(outputs, EngineCoreOutputs)
    assert outputs.outputs[0].indices.tolist() == [0, 2, 5]
    assert outputs.outputs[0].values.tolist() == values.tolist()
    assert outputs.outputs[0].errors[1].template == "no"
    assert outputs.stats is not None
    assert outputs.stats.num_steps == 7


def test_only_arrays_are_sent_in_a_special_way() -> None:
    with pytest.raises(TypeError, match="cannot send object"):
        encoder().encode(AbortRequest([object()]))  # type: ignore[list-item]


def test_messages_keep_their_order_and_the_folder_is_private() -> None:
    here: Channel[FromCore] = Channel.listen(FromCore)
    there: Channel[ToCore] = Channel.connect(here.folder, ToCore)
    assert stat.S_IMODE(os.stat(here.folder).st_mode) == 0o700
    for i in range(200):
        here.send(AbortRequest([str(i)]))
    received = [there.recv(1.0) for _ in range(200)]
    assert [message.call_ids[0] for message in received if isinstance(message, AbortRequest)] == [
        str(i) for i in range(200)
    ]
    there.send(EngineCoreOutputs())
    assert here.recv(1.0) == EngineCoreOutputs()
    assert here.recv(0.01) is None
    there.close()
    here.close()
    assert not os.path.exists(here.folder)


def test_the_end_of_the_peer_is_noticed_at_once() -> None:
    channel: Channel[FromCore] = Channel.listen(FromCore)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"])
    handle = process_handle(child.pid)
    started = time.monotonic()
    with pytest.raises(ChannelClosedError):
        channel.recv(10.0, watch_fd=handle)
    assert time.monotonic() - started < 5.0
    child.wait()
    os.close(handle)
    channel.close()


def test_over_tcp_both_ends_need_the_keys() -> None:
    listening: Channel[ToCore] = Channel.listen_to_host("127.0.0.1", ToCore)
    address = listening.address
    assert address.up.startswith("tcp://127.0.0.1:")
    assert address.up != address.down
    connected: Channel[FromCore] = Channel.connect_to(address, FromCore)
    try:
        connected.send(AbortRequest(["x"]))
        assert listening.recv(5.0) == AbortRequest(["x"])
        listening.send(EngineCoreOutputs(step_tokens=7))
        assert connected.recv(5.0) == EngineCoreOutputs(step_tokens=7)
    finally:
        connected.close()
        listening.close()


@pytest.mark.parametrize("knows", ["nothing", "server key", "another client's keys"])
def test_a_stranger_on_the_network_is_not_heard(knows: str) -> None:
    import zmq

    listening: Channel[ToCore] = Channel.listen_to_host("127.0.0.1", ToCore)
    address, (public, secret) = listening.address, zmq.curve_keypair()
    if knows == "nothing":
        context = zmq.Context()
        stranger = context.socket(zmq.PUSH)
        stranger.setsockopt(zmq.LINGER, 0)
        stranger.connect(address.up)
        stranger.send(encoder().encode(AbortRequest(["x"])))
        assert listening.recv(0.5) is None
        stranger.close()
        context.term()
    else:
        server = address.server_key if knows == "server key" else public
        theirs = Address(address.down, address.up, server, public, secret)
        intruder: Channel[FromCore] = Channel.connect_to(theirs, FromCore)
        intruder._out.setsockopt(zmq.LINGER, 0)
        intruder.send(AbortRequest(["x"]))  # it waits for a handshake that never ends
        assert listening.recv(0.5) is None
        intruder.close()
    listening.close()


def test_only_one_address_is_listened_on() -> None:
    listening: Channel[ToCore] = Channel.listen_to_host("127.0.0.1", ToCore)
    port = int(listening.address.up.rpartition(":")[2])
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))  # taken already if the channel listened on every address
    listening.close()
