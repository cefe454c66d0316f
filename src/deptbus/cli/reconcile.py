"""`deptbus reconcile`: is what the copies hold what their sources hold? And mend what is not."""

from __future__ import annotations

import asyncio
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deptbus.cli.options import (
    Bootstrap,
    CertificateKey,
    ClientFile,
    Data,
    Operator,
    Output,
    OutputOption,
    Reason,
    connect,
    who,
)
from deptbus.errors import DeptbusError

if TYPE_CHECKING:
    from deptbus.connection import Connection
    from deptbus.operations.audit import Operator as Person
    from deptbus.operations.leg import LegResult
    from deptbus.operations.office import Office
    from deptbus.operations.reconcile import Reconciled, Scope
    from deptbus.operations.reconcile_repair import Wishes
    from deptbus.operations.reconcile_sample import Sampled


class Leg(StrEnum):
    """Which way is proved: the source's table to the bus, the bus to the copy."""

    SOURCE = "source"
    COPY = "copy"
    BOTH = "both"


app = typer.Typer(help="Prove copies equal to their sources, and mend exactly what differs.")


@app.command()
def reconcile(
    unit: Annotated[
        str | None, typer.Option("--unit", help="Whose copies, `line@territory`; or --all.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every unit of the contract.")] = False,
    dataset: Annotated[str | None, typer.Option("--dataset", help="One dataset only.")] = None,
    leg: Annotated[
        Leg, typer.Option("--leg", help="Source to bus, bus to copy, or both.")
    ] = Leg.BOTH,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare the real rows too: finds what was typed there.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what differs; needs --reason.")
    ] = False,
    delete_extra: Annotated[
        bool, typer.Option("--delete-extra", help="Repair removes extra rows, too.")
    ] = False,
    max_delete: Annotated[
        int, typer.Option("--max-delete", min=0, help="More extra rows than that: nothing is done.")
    ] = 0,
    overwrite_local: Annotated[
        bool,
        typer.Option(
            "--overwrite-local", help="Repair replaces local edits; the unit keeps a file of them."
        ),
    ] = False,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="Write a signed certificate to this file.")
    ] = None,
    key: CertificateKey = None,
    sample: Annotated[
        int,
        typer.Option("--sample", min=0, help="Show so many records side by side, with --dataset."),
    ] = 0,
    seed: Annotated[
        int, typer.Option("--seed", help="Draws the sample; the same seed draws the same records.")
    ] = 0,
    deadline: Annotated[
        float, typer.Option("--deadline", min=1, help="Seconds that an adapter may take.")
    ] = 1800.0,
    reason: Reason = "",
    operator: Operator = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> int:
    """Compare the bus with its sources, and copies with what the bus gives them, while traffic goes
    on; name every row that differs by its kind, and mend just those.

    Where grants.yml asks for two people, a repair is proposed, and done once another confirmed it.
    Exit code 0: all are equal; 1: something differs; 2: it could not be told, and why, or
    there was nothing to prove.
    """
    from deptbus.operations.audit import checked_reason, operator_of
    from deptbus.operations.reconcile import Scope
    from deptbus.operations.reconcile_repair import Wishes

    if (unit is None) != every:
        raise DeptbusError("say whose copies", mend="Give either --unit LINE@TERRITORY or --all")
    if not repair and (delete_extra or overwrite_local or max_delete):
        raise DeptbusError("that is for a repair", mend="Give --repair too")
    if delete_extra != (max_delete > 0):
        raise DeptbusError(
            "extra rows are removed up to a number only",
            mend="Give --delete-extra with --max-delete N",
        )
    if certificate is not None and every:
        raise DeptbusError("a certificate is of one unit", mend="Give --unit LINE@TERRITORY")
    if sample and (unit is None or dataset is None):
        raise DeptbusError(
            "a sample is of one copy", mend="Give --unit LINE@TERRITORY and --dataset D"
        )
    connection = connect(data, bootstrap, client_file)
    person = operator_of(connection, who(operator))
    scope = Scope(unit, dataset, leg.value, deep, deadline)
    wishes = None
    if repair:
        wishes = Wishes(checked_reason(reason), max_delete, overwrite_local=overwrite_local)
    return asyncio.run(
        _Run(connection, scope, person, output).run(
            wishes, certificate, data, key, sample=sample, seed=seed
        )
    )


class _Run:
    def __init__(
        self, connection: Connection, scope: Scope, person: Person, output: Output
    ) -> None:
        self._connection, self._scope, self._person = connection, scope, person
        self._output = output

    async def run(
        self,
        wishes: Wishes | None,
        certificate: Path | None,
        data: Path | None,
        key: Path | None,
        *,
        sample: int,
        seed: int,
    ) -> int:
        from deptbus.cli.proposal import print_proposed
        from deptbus.cli.reconcile_view import print_reconciled, print_sample
        from deptbus.operations.office import Settings, open_office
        from deptbus.operations.outcomes import keep_results
        from deptbus.operations.reconcile import document
        from deptbus.operations.reconcile_repair import repair

        async with open_office(self._connection, Settings(keeper_interval_hours=None)) as office:
            found = await self._reconcile(office)
            mended = None
            proposed = ""
            if wishes is not None and found.differences:
                proposed = await self._proposed(office, found, wishes)
                if not proposed:
                    mended = await repair(office, self._connection, found, wishes, self._person)
                    found = await self._reconcile(office)
            content = b""
            if certificate is not None:
                content = await self._certify(office, found, certificate, data, key)
            await keep_results(
                office, found.results, operator=self._person.name, certificate=content
            )
            drawn = await self._drawn(office, found, sample, seed) if sample else []
        if self._output is Output.JSON:
            told = document(found)
            if mended is not None:
                told["repair"] = mended.document()
            if proposed:
                told["proposal"] = proposed
            if sample:
                told["sample"] = [one.document() for one in drawn]
            print(json.dumps(told, ensure_ascii=False))
        else:
            print_sample(drawn)
            print_reconciled(found, mended, certificate)
            if proposed:
                print_proposed(proposed, self._output)
        return found.exit_code

    async def _reconcile(self, office: Office) -> Reconciled:
        from deptbus.operations.reconcile import reconcile as proved

        def told(result: LegResult) -> None:
            if self._output is Output.TABLE:
                held = f", {result.held} held" if result.held else ""
                equal = f"{result.differences} differences{held}"
                said = result.could_not_tell or result.absent or equal
                print(f"{result.unit} {result.dataset} ({result.leg}): {said}", file=sys.stderr)

        return await proved(office, self._connection, self._scope, told)

    async def _proposed(self, office: Office, found: Reconciled, wishes: Wishes) -> str:
        """The proposal's name, where one person may not do it alone; else nothing."""
        from deptbus.operations.proposal_desk import RepairTerms, propose_repair
        from deptbus.operations.proposals import asks_for_two

        datasets = {result.dataset for result in found.results if result.differences}
        contract = office.policies.current().contract
        if not asks_for_two(contract, "repair", datasets):
            return ""
        if self._scope.unit is None:
            raise DeptbusError(
                "grants.yml asks for two people, and a repair is proposed of one unit",
                mend="Give --unit LINE@TERRITORY",
            )
        terms = RepairTerms(
            leg=self._scope.legs,
            deep=self._scope.deep,
            most=found.differences,
            max_delete=wishes.max_delete,
            overwrite_local=wishes.overwrite_local,
        )
        return await propose_repair(
            self._connection,
            contract,
            self._scope.unit,
            datasets,
            terms,
            self._person,
            wishes.reason,
        )

    async def _drawn(
        self, office: Office, found: Reconciled, count: int, seed: int
    ) -> list[Sampled]:
        from deptbus.operations.reconcile_sample import sample

        unit, dataset = self._scope.unit, self._scope.dataset
        assert unit is not None
        assert dataset is not None
        return await sample(office, unit, dataset, found.results, count=count, seed=seed)

    async def _certify(
        self, office: Office, found: Reconciled, file: Path, data: Path | None, key: Path | None
    ) -> bytes:
        from deptbus.operations.certificate_key import ensure_key, key_path
        from deptbus.operations.reconcile_certificate import certify

        private_key, _ = ensure_key(key_path(data, key))
        assert self._scope.unit is not None
        content = await certify(
            office, self._connection, self._scope.unit, found, self._person, private_key
        )
        try:
            await asyncio.to_thread(file.write_bytes, content)
        except OSError as error:
            raise DeptbusError(f"{file} cannot be written ({error.strerror})") from None
        return content
