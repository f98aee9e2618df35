"""A backend of Triton's that compiles nothing, for runs in which its interpreter does everything.

vLLM looks for a backend "cpu" before it uses Triton on a CPU. Only tests are run like this.
"""
