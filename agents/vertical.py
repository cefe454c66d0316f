"""data.<dataset> -> in.<unit>: deliveries to units above and below: upward, downward, return."""

from faust.types import StreamT

from agents.app import app
from deptbus.stream.delivery import VERTICAL
from deptbus.stream.work import deliver


@app.agent(app.canonical, name="vertical")
async def vertical(stream: StreamT) -> None:
    await app.feed(stream, lambda batch: deliver(app.desk, VERTICAL, batch))
