"""A server whose clients' module cannot be imported."""

import time

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

server = ServerApp()


@server.main()
def main(grid, context):
    time.sleep(1.0)
    nodes = list(grid.get_node_ids())
    messages = [Message(RecordDict({"c": ConfigRecord()}), node, "train") for node in nodes]
    list(grid.send_and_receive(messages, timeout=5.0))
