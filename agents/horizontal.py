"""data.<dataset> -> in.<unit>: deliveries to units of the same territory, and by grant."""

from faust.types import StreamT

from agents.app import app
from deptbus.stream.delivery import HORIZONTAL
from deptbus.stream.work import deliver


@app.agent(app.canonical, name="horizontal")
async def horizontal(stream: StreamT) -> None:
    await app.feed(stream, lambda batch: deliver(app.desk, HORIZONTAL, batch))
