"""Functions by category and action; messages that nobody registered for."""

from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from kit import answer, ask, result, sorted_texts, wait_for

server = ServerApp()
client = ClientApp()


def register(category, action, value):
    decorator = getattr(client, category)
    registered = decorator() if action is None else decorator(action)

    @registered
    def serve(message, context):
        return answer(message, metrics={category: value})


for number, (kind, name) in enumerate(
    [("train", None), ("train", "custom"), ("evaluate", "other"), ("query", None), ("query", "a1")]
):
    register(kind, name, number)


@server.main()
def main(grid, context):
    nodes = wait_for(grid, 2)
    kinds = ["train", "train.custom", "train.default", "train.nobody", "evaluate", "evaluate.other"]
    kinds += ["query", "query.a1", "query.default", "system"]
    for kind in kinds:
        replies = list(grid.send_and_receive([ask(node, kind) for node in nodes]))
        result(kind, sorted_texts(replies))
        said = {r.error.reason for r in replies if r.has_error()}
        result(kind, ["function registered with name" in reason for reason in said][:1])
    mixed = [ask(node, kind) for node in nodes for kind in kinds[:4]]
    result("mixed", sorted_texts(grid.send_and_receive(mixed)))
    for wrong in (
        lambda: client.train("not an identifier"),
        lambda: client.train("custom"),
        lambda: client.evaluate("other"),
    ):
        try:
            wrong()(lambda message, context: message)
        except ValueError as error:
            result(error)
