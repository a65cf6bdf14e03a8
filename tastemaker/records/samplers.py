"""Names of the samplers, for recipes and for the code that draws."""

from typing import Literal

SamplerName = Literal[
    "ddim",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde_karras",
    "euler",
    "euler_a",
    "heun",
    "unipc",
    "lcm",
]
