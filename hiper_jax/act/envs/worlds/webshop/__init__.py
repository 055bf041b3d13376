"""WebShop: a shop to search and buy in, native and without a JVM.

    shop = load(directory)             products, prices, goals, search: shared
    env = WebShop(shop, goal)          one customer

The generator (`make`), the scripted expert (`expert`) and the task lists (`protocol`)
are modules of their own.
"""

from hiper_jax.act.envs.worlds.webshop.shop import Shop, load
from hiper_jax.act.envs.worlds.webshop.world import WebShop, make_env

__all__ = ["Shop", "WebShop", "load", "make_env"]
