"""What the Grid and the contexts say of the run; what set_run refuses."""

from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from kit import answer, ask, result, sorted_texts, text, wait_for

server = ServerApp()
client = ClientApp()


@client.query()
def query(message, context):
    context.node_config["kept"] = "yes"
    return answer(
        message,
        of={
            "partition": context.node_config["partition-id"],
            "partitions": context.node_config["num-partitions"],
            "same-run": int(context.run_id == message.metadata.run_id),
            "own-node": int(context.node_id == message.metadata.dst_node_id),
            "lr": context.run_config["lr"],
            "keys": len(context.run_config),
            "node-keys": len(context.node_config),
            "state": len(context.state),
        },
    )


@client.train()
def train(message, context):
    context.run_config["new"] = 1
    return answer(message)


@server.main()
def main(grid, context):
    nodes = wait_for(grid, 3)
    run = grid.run
    result(type(run).__name__, run.fab_id, run.fab_version, sorted(run.override_config.items()))
    result(run.run_id == context.run_id, isinstance(grid, Grid), repr(run.primary_task_type))
    run.fab_id = "changed"
    result("a copy", grid.run.fab_id)
    result(sorted(context.run_config.items()), dict(context.node_config), text(context.state))
    for wrong in (1, None, "run"):
        try:
            grid.set_run(wrong)
            result("taken", wrong)
        except Exception as error:
            result(type(error).__name__, error)
    try:
        grid.set_run(Run.create_empty(31337))
        result("taken")
    except Exception as error:
        result(type(error).__name__, error)
    grid.set_run(grid.run)
    result("nodes", len(nodes), len(set(nodes)), sorted(nodes) == sorted(grid.get_node_ids()))
    result(all(isinstance(node, int) and node > 0 for node in nodes))
    infos = list(grid.get_nodes())
    result("infos", sorted(i.node_id for i in infos) == sorted(nodes), type(infos[0]).__name__)
    for _ in range(2):
        for line in sorted_texts(grid.send_and_receive([ask(n, "query") for n in nodes])):
            result(line)
    replies = list(grid.send_and_receive([ask(nodes[0])]))
    result(sorted_texts(replies), "cannot be modified" in replies[0].error.reason)
    result(sorted_texts(grid.send_and_receive([ask(nodes[0], "query")]))[0].partition("lr")[2])
