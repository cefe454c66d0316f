"""out.<unit> -> data.<dataset>: what a unit published, once it is checked."""

from faust.types import StreamT

from agents.app import app


@app.agent(app.outboxes, name="intake")
async def intake(stream: StreamT) -> None:
    await app.feed(stream, app.gate.take_in)
