"""A ClientApp that can train several clients in one call: what the engine may ask of it."""

from __future__ import annotations

from flwr.app import Context, Message, MetricRecord
from flwr.clientapp import ClientApp

from atoll.clients.arrays.weighted_sum import WeightedSum

NOT_OFFERED = "the app does not offer it"


class BatchClientApp(ClientApp):
    """A ClientApp whose clients may be trained together, or summed where they are trained.

    By default it offers neither; a subclass overrides both methods of what it offers.

    Attributes
    ----------
    summed_by : str
        The metric by which :meth:`train_and_sum` weighs clients.

    Examples
    --------
    >>> from atoll.clients import BatchClientApp
    >>> class Together(BatchClientApp):
    ...     '''Answers several clients in one call.'''
    ...
    ...     def can_vectorize(self):
    ...         return None
    ...
    ...     def train_together(self, messages, contexts):
    ...         return [self(message, context) for message, context in zip(messages, contexts)]
    >>> Together().can_vectorize(), BatchClientApp().can_vectorize()
    (None, 'the app does not offer it')
    """

    summed_by = "num-examples"

    def can_vectorize(self) -> str | None:
        """Return None if clients can train together, or why they cannot."""
        return NOT_OFFERED

    def train_together(self, messages: list[Message], contexts: list[Context]) -> list[Message]:
        """Answer the training messages of several clients at once, in their order."""
        raise NotImplementedError

    def can_sum(self, message: Message) -> str | None:
        """Return None if answers to ``message`` may be added up here, or why not."""
        return NOT_OFFERED

    def train_and_sum(
        self, message: Message, contexts: list[Context], *, vectorized: bool
    ) -> tuple[WeightedSum, list[MetricRecord], list[float]]:
        """Train several clients that got the same message, for the sum of their models alone.

        Parameters
        ----------
        message : Message
            The training message that each of them got.
        contexts : list[Context]
            The clients.
        vectorized : bool
            Whether they train together; if not, the sum has the bits of their answers' sum.

        Returns
        -------
        tuple[WeightedSum, list[MetricRecord], list[float]]
            The sum of their models, each times its examples; and per client the metrics that it
            would have answered with, and the seconds that it took.
        """
        raise NotImplementedError


def batch_app_of(app: ClientApp) -> BatchClientApp:
    """Return ``app`` if it trains several clients in one call, or one that offers nothing."""
    return app if isinstance(app, BatchClientApp) else BatchClientApp()
