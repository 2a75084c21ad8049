"""Recreate the raw files of the sample project: three bicycle workshops, first quarter of 2025.

Run `python tests/sample/generate_raw_data.py [folder]`; the default folder is `template/data/raw`.
"""

import csv
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, fields
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SEED = 20250101
FIRST_DAY = date(2025, 1, 1)
LAST_DAY = date(2025, 3, 31)
EXPORTED_AT = datetime(2025, 3, 31, 19, 0)
"""Whatever happens later is not in the files: the last jobs are still on the stand."""
RAW_FOLDER = Path(__file__).parents[2] / "template" / "data" / "raw"

CUSTOMER_COUNT = 520
UNPAID_JOBS = 4
"""Jobs handed back without a payment: the finding that the sample's non-blocking audit shows."""

WORKSHOP_SIZE = {"HAR": 1.2, "STA": 1.0, "MIL": 0.7}
MECHANICS = {
    "HAR": ("Ines Duarte", "Tom Whelan", "Aiko Mori"),
    "STA": ("Marek Zelinka", "Priya Nair"),
    "MIL": ("Jonas Lindqvist", "Wren Abbott"),
}
JOBS_PER_DAY = {1: 4.0, 2: 5.0, 3: 7.5}
"""Average drop-offs on an open day of a workshop of size 1, by month: spring fills the stands."""

# Minutes and labour prices (in cents) equal those of the seed `services.csv`; a test compares them.
SERVICES = {
    "PUNCT": (20, 1200),
    "BRAKE": (35, 2400),
    "GEARS": (40, 2600),
    "WHEEL": (50, 3200),
    "TUNEUP": (90, 6500),
    "OVERHL": (210, 14500),
    "EBIKE": (60, 5500),
}
SERVICE_WEIGHTS = (30, 18, 16, 8, 16, 5, 7)
PARTS_BY_SERVICE = {
    "PUNCT": ("TUB-01", "TUB-02", "TYR-01", "TYR-02", "SEA-01"),
    "BRAKE": ("BRK-01", "BRK-02", "BRK-03", "CAB-01"),
    "GEARS": ("CAB-02", "CHN-01", "CHN-02", "CAS-01", "DER-01"),
    "WHEEL": ("SPK-01", "RIM-01", "TAP-01"),
    "TUNEUP": ("CHN-01", "CAB-01", "CAB-02", "BRK-01", "LUB-01"),
    "OVERHL": ("CHN-02", "CAS-01", "BRK-02", "BBK-01", "CAB-02", "GRP-01"),
    "EBIKE": ("EBS-01", "EBC-01", "CHN-03", "BRK-03"),
}
BIKE_TYPES = ("city", "road", "mountain", "cargo", "kids")
DEPOSIT_CENTS = 5000
"""Overhauls pay a deposit when the bicycle is dropped off."""

FIRST_NAMES = (
    "Ada Amir Anouk Bea Bilal Carla Chidi Dana Dario Edith Emil Farah Felix Greta Hana Hugo Ida "
    "Ivo Jade Jamal Kai Lena Luca Maya Milo Nadia Nils Olga Omar Paula Ravi Rosa Sami Sofia Tariq "
    "Tess Uma Viktor Yara Zoe"
)
LAST_NAMES = (
    "Abel Barros Brandt Castell Dahl Demir Eklund Farrow Fischer Gallo Haddad Hollis Ibsen Jansen "
    "Kaya Keller Lopes Madsen Moreau Nowak Okoro Pace Petit Quist Reyes Rossi Sato Silva Thorne "
    "Usman Vance Weber Yilmaz Zeman"
)


@dataclass
class Customer:
    """A row of the customer list."""

    customer_id: int
    full_name: str
    email: str
    is_member: bool
    joined_on: date


@dataclass
class Part:
    """A row of the price list."""

    part_code: str
    part_name: str
    category: str
    supplier_cost: str
    list_price: str


@dataclass
class RepairJob:
    """A booked repair."""

    job_id: int
    workshop_code: str
    customer_id: int
    service_code: str
    bike_type: str
    is_warranty: bool
    booked_at: datetime


@dataclass
class JobEvent:
    """A change of a job's status."""

    event_id: int
    job_id: int
    event: str
    mechanic: str
    occurred_at: datetime


@dataclass
class JobPart:
    """A part on a job sheet."""

    line_id: int
    job_id: int
    part_code: str
    quantity: int
    unit_price: str
    unit_cost: str
    fitted_at: datetime


@dataclass
class Payment:
    """A payment at a till."""

    payment_id: int
    job_id: int
    workshop_code: str
    kind: str
    method: str
    amount: str
    paid_at: datetime


PARTS = [
    Part("TUB-01", "Inner tube 700C", "tyres", "2.10", "6.50"),
    Part("TUB-02", "Inner tube 26 inch", "tyres", "1.95", "6.00"),
    Part("TYR-01", "Puncture-proof tyre 700C", "tyres", "15.80", "32.00"),
    Part("TYR-02", "Mountain tyre 29 inch", "tyres", "19.40", "39.50"),
    Part("SEA-01", "Tubeless sealant 125 ml", "tyres", "4.60", "9.90"),
    Part("BRK-01", "Rim brake pads", "brakes", "3.20", "8.50"),
    Part("BRK-02", "Disc brake pads", "brakes", "7.10", "18.00"),
    Part("BRK-03", "Brake rotor 180 mm", "brakes", "13.75", "29.00"),
    Part("CAB-01", "Brake cable set", "cables", "3.85", "9.50"),
    Part("CAB-02", "Gear cable set", "cables", "4.05", "10.50"),
    Part("CHN-01", "Chain 8-speed", "drivetrain", "7.90", "17.50"),
    Part("CHN-02", "Chain 11-speed", "drivetrain", "14.20", "31.00"),
    Part("CHN-03", "Chain for e-bikes", "drivetrain", "16.90", "36.00"),
    Part("CAS-01", "Cassette 11-34", "drivetrain", "24.50", "52.00"),
    Part("DER-01", "Rear derailleur", "drivetrain", "29.80", "58.00"),
    Part("BBK-01", "Bottom bracket", "drivetrain", "12.60", "28.00"),
    Part("SPK-01", "Spoke and nipple", "wheels", "0.55", "1.50"),
    Part("RIM-01", "Rim 700C", "wheels", "21.00", "44.00"),
    Part("TAP-01", "Rim tape", "wheels", "1.40", "4.00"),
    Part("GRP-01", "Handlebar grips", "cockpit", "5.30", "13.50"),
    Part("LUB-01", "Chain lubricant", "care", "2.90", "7.50"),
    Part("EBS-01", "Speed sensor", "electric", "11.20", "26.00"),
    Part("EBC-01", "Motor cable", "electric", "9.60", "24.00"),
]


def cents(amount: str) -> int:
    """Read an amount with two decimals."""
    return int(amount.replace(".", ""))


def money(amount: int) -> str:
    """Write an amount of cents with two decimals."""
    return f"{amount // 100}.{amount % 100:02d}"


def is_open(day: date) -> bool:
    """Whether the workshops work on this day."""
    return day.weekday() != 6 and day != date(2025, 1, 1)


def open_days_later(day: date, count: int) -> date:
    """Return the day that lies `count` open days after `day`."""
    while count or not is_open(day):
        day += timedelta(days=1)
        count -= is_open(day)
    return day


@dataclass
class Quarter:
    """What the workshops recorded, in the order in which it was written down."""

    dice: random.Random = field(default_factory=lambda: random.Random(SEED))
    customers: list[Customer] = field(default_factory=list)
    jobs: list[RepairJob] = field(default_factory=list)
    events: list[JobEvent] = field(default_factory=list)
    lines: list[JobPart] = field(default_factory=list)
    payments: list[Payment] = field(default_factory=list)

    # `random()` is the one method whose sequence Python guarantees to stay the same.
    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.dice.random() * len(options))]

    def weighted(self, options: Sequence[T], weights: Sequence[float]) -> T:
        rest = self.dice.random() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            rest -= weight
            if rest < 0:
                return option
        return options[-1]

    def between(self, low: int, high: int) -> int:
        return low + int(self.dice.random() * (high - low + 1))

    def chance(self, share: float) -> bool:
        return self.dice.random() < share

    def at(self, day: date, first: str, last: str) -> datetime:
        low, high = (int(t[:2]) * 60 + int(t[3:]) for t in (first, last))
        return datetime.combine(day, time()) + timedelta(
            minutes=self.between(low, high), seconds=self.between(0, 59)
        )

    def register_customers(self) -> None:
        taken: dict[str, int] = {}
        for customer_id in range(1001, 1001 + CUSTOMER_COUNT):
            first, last = self.pick(FIRST_NAMES.split()), self.pick(LAST_NAMES.split())
            login = f"{first}.{last}".lower()
            taken[login] = taken.get(login, 0) + 1
            email = f"{login}{taken[login] if taken[login] > 1 else ''}@example.com"
            full_name = f"{first} {last}"
            if self.chance(0.06):  # typed at the counter
                email = email.title() if self.chance(0.5) else email.upper()
                full_name = f" {full_name} "
            if self.chance(0.04):
                email = ""
            joined_on = date(2023, 1, 2) + timedelta(days=self.between(0, 728))
            self.customers.append(
                Customer(customer_id, full_name, email, self.chance(0.22), joined_on)
            )

    def open_workshops(self) -> None:
        day = FIRST_DAY
        while day <= LAST_DAY:
            for workshop, size in WORKSHOP_SIZE.items():
                expected = JOBS_PER_DAY[day.month] * size * (1.4 if day.weekday() == 5 else 1.0)
                spread = self.dice.random() + self.dice.random()
                for _ in range(int(expected * spread + 0.5) if is_open(day) else 0):
                    self.repair(workshop, day)
            day += timedelta(days=1)

    def repair(self, workshop: str, day: date) -> None:
        service = self.weighted(tuple(SERVICES), SERVICE_WEIGHTS)
        # A third of the customers brings two thirds of the work.
        regular = self.chance(0.66)
        customer = self.pick(self.customers[:170] if regular else self.customers[170:])
        checked_in = self.at(day, "08:00", "16:30")
        lead_days = 0 if service == "PUNCT" else self.between(0, 5)
        booked = checked_in - timedelta(days=lead_days, minutes=self.between(1, 9))
        job = RepairJob(
            len(self.jobs),
            workshop,
            customer.customer_id,
            service,
            "ebike" if service == "EBIKE" else self.pick(BIKE_TYPES),
            self.chance(0.025),
            max(booked, self.at(FIRST_DAY, "08:00", "20:00")),
        )
        self.jobs.append(job)
        mechanic = self.pick(MECHANICS[workshop])
        self.record(job, "checked_in", mechanic, checked_in)
        if service == "OVERHL" and not job.is_warranty:
            self.pay(job, "deposit", DEPOSIT_CENTS, checked_in)
        elif self.chance(0.035):
            self.record(job, "cancelled", mechanic, checked_in + timedelta(hours=2))
            return
        started, finished, collected = self.plan_work(service, checked_in)
        self.record(job, "started", mechanic, started)
        parts = self.fit_parts(job, started, finished) if started <= EXPORTED_AT else 0
        self.record(job, "finished", mechanic, finished)
        self.record(job, "collected", mechanic, collected)
        if not job.is_warranty:
            total = SERVICES[service][1] + parts
            discount = (total * 10 + 50) // 100 if customer.is_member else 0
            deposit = DEPOSIT_CENTS if service == "OVERHL" else 0
            self.pay(job, "balance", total - discount - deposit, collected)

    def plan_work(self, service: str, checked_in: datetime) -> tuple[datetime, datetime, datetime]:
        minutes = SERVICES[service][0]
        duration = timedelta(minutes=self.between(int(minutes * 0.8), int(minutes * 1.5)))
        closing = datetime.combine(checked_in, time(18))
        started = checked_in + timedelta(minutes=self.between(15, 80))
        wait = self.weighted((0, 1, 2, 3), (50, 30, 14, 6))
        if wait or started + duration > closing:
            day = open_days_later(checked_in.date(), max(wait, 1))
            started = self.at(day, "08:10", "12:15")
        finished = started + duration
        keep = self.weighted((0, 1, 2, 4), (55, 30, 10, 5))
        if keep:
            return (
                started,
                finished,
                self.at(open_days_later(finished.date(), keep), "08:30", "17:45"),
            )
        return started, finished, finished + timedelta(minutes=self.between(10, 45))

    def fit_parts(self, job: RepairJob, started: datetime, finished: datetime) -> int:
        """Return what the fitted parts cost the customer, in cents."""
        codes = PARTS_BY_SERVICE[job.service_code]
        count = min(self.weighted((0, 1, 2, 3), (12, 52, 26, 10)), len(codes))
        total = 0
        for code in sorted({self.pick(codes) for _ in range(count)}):
            part = next(part for part in PARTS if part.part_code == code)
            price = cents(part.list_price)
            if self.chance(0.05):  # the mechanic rounds down at the counter
                price -= price % 100
            quantity = self.between(1, 6) if code == "SPK-01" else self.weighted((1, 2), (85, 15))
            fitted = started + (finished - started) * self.dice.random()
            line = JobPart(
                line_id=0,
                job_id=job.job_id,
                part_code=code,
                quantity=quantity,
                unit_price=money(price),
                unit_cost=part.supplier_cost,
                fitted_at=fitted.replace(microsecond=0),
            )
            self.lines.append(line)
            total += price * quantity
        return total

    def record(self, job: RepairJob, event: str, mechanic: str, at: datetime) -> None:
        if at <= EXPORTED_AT:
            self.events.append(JobEvent(0, job.job_id, event, mechanic, at))

    def pay(self, job: RepairJob, kind: str, amount: int, at: datetime) -> None:
        method = self.weighted(("card", "cash", "invoice"), (78, 15, 7))
        paid_at = at + timedelta(minutes=self.between(0, 4))
        if paid_at <= EXPORTED_AT:
            self.payments.append(
                Payment(0, job.job_id, job.workshop_code, kind, method, money(amount), paid_at)
            )

    def forget_payments(self) -> None:
        """Four customers rode away with a card payment that the terminal refused."""
        settled = [
            p for p in self.payments if p.kind == "balance" and p.paid_at.date() < date(2025, 3, 20)
        ]
        step = len(settled) // UNPAID_JOBS
        for number in range(UNPAID_JOBS):
            self.payments.remove(settled[number * step + step // 2])

    def number_records(self) -> None:
        """Give every record the number that its workshop's till would have given it."""
        self.jobs.sort(key=lambda job: (job.booked_at, job.workshop_code))
        job_ids = {job.job_id: number for number, job in enumerate(self.jobs, start=50001)}
        records: list[RepairJob | JobEvent | JobPart | Payment] = [
            *self.jobs,
            *self.events,
            *self.lines,
            *self.payments,
        ]
        for record in records:
            record.job_id = job_ids[record.job_id]
        self.events.sort(key=lambda e: (e.occurred_at, e.job_id))
        self.lines.sort(key=lambda line: (line.fitted_at, line.job_id, line.part_code))
        self.payments.sort(key=lambda p: (p.paid_at, p.job_id))
        for number, event in enumerate(self.events, start=200001):
            event.event_id = number
        for number, line in enumerate(self.lines, start=300001):
            line.line_id = number
        for number, payment in enumerate(self.payments, start=400001):
            payment.payment_id = number


def generate_raw_tables() -> dict[str, Sequence[object]]:
    """Return the records of each raw file, keyed by the name of its table."""
    quarter = Quarter()
    steps: tuple[Callable[[], None], ...] = (
        quarter.register_customers,
        quarter.open_workshops,
        quarter.forget_payments,
        quarter.number_records,
    )
    for step in steps:
        step()
    return {
        "customers": quarter.customers,
        "parts": PARTS,
        "repair_jobs": quarter.jobs,
        "job_events": quarter.events,
        "job_parts": quarter.lines,
        "payments": quarter.payments,
    }


def render_cells(record: object) -> Iterator[str]:
    """Yield the cells of a record as DuckDB would write them."""
    for value in astuple(record):  # type: ignore[call-overload]
        yield str(value).lower() if isinstance(value, bool) else str(value)


def write_raw_files(folder: Path) -> None:
    """Write one CSV file for each raw table, with Unix line ends on every platform."""
    for name, records in generate_raw_tables().items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(column.name for column in fields(records[0]))  # type: ignore[arg-type]
            writer.writerows(render_cells(record) for record in records)


if __name__ == "__main__":
    write_raw_files(Path(sys.argv[1]) if len(sys.argv) > 1 else RAW_FOLDER)
