"""Made-up people and goods, from Faker, in pools: the same seed gives the same ones.

Faker takes about 0.1 ms a value, so a pool is made once and drawn from: traffic costs next to nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal

PEOPLE = 1_000
ADDRESSES = 2_000
CITIES = 12
CATEGORIES: dict[str, tuple[str, ...]] = {
    "Books": ("Atlas", "Cookbook", "Novel", "Notebook"),
    "Clothing": ("Jacket", "Scarf", "Shirt", "Sneakers"),
    "Electronics": ("Headphones", "Keyboard", "Lamp", "Speaker"),
    "Garden": ("Bench", "Hose", "Planter", "Shears"),
    "Kitchen": ("Kettle", "Knife", "Pan", "Teapot"),
    "Toys": ("Kite", "Puzzle", "Robot", "Train"),
}


@dataclass(frozen=True, slots=True)
class User:
    """A row of dim_users without its key."""

    name: str
    email: str
    phone: str
    address: str
    city: str


@dataclass(frozen=True, slots=True)
class Product:
    """A row of dim_products without its key."""

    name: str
    category: str
    price: Decimal


class Fakes:
    """Pools of names, addresses and goods. Draws come from the caller's own random sequence."""

    def __init__(self, seed: int) -> None:
        from faker import Faker

        faker = Faker("en_US")
        faker.seed_instance(seed)
        self._names = [faker.name() for _ in range(PEOPLE)]
        self._streets = [faker.street_address() for _ in range(ADDRESSES)]
        self._colours = sorted({faker.color_name() for _ in range(200)})
        # The same cities whatever the seed: traffic of one seed goes to a shop of another.
        faker.seed_instance(CITIES)
        self._cities = [faker.unique.city() for _ in range(CITIES)]

    def user(self, draw: random.Random, number: int) -> User:
        """A user; the number makes the email address unique."""
        name = draw.choice(self._names)
        handle = "".join(letter for letter in name.lower() if letter.isascii() and letter.isalpha())
        phone = f"+1-555-{draw.randrange(1000):03d}-{draw.randrange(10_000):04d}"
        address, city = self.address(draw)
        return User(name, f"{handle}.{number}@example.com", phone, address, city)

    def address(self, draw: random.Random) -> tuple[str, str]:
        """A street address and a city. Early cities are larger: half of all people live in three."""
        city = self._cities[min(draw.randrange(CITIES), draw.randrange(CITIES))]
        return draw.choice(self._streets), city

    def product(self, draw: random.Random) -> Product:
        """A product, such as a teal teapot."""
        category = draw.choice(list(CATEGORIES))
        noun = draw.choice(CATEGORIES[category])
        return Product(f"{draw.choice(self._colours)} {noun}", category, price(draw))


def price(draw: random.Random) -> Decimal:
    """A price between 1.99 and 499.99; low ones are more frequent."""
    whole = min(draw.randrange(1, 500), draw.randrange(1, 500))
    return Decimal(whole) + Decimal("0.99")
