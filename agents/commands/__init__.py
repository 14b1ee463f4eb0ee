"""The commands of ``refit``: options in one module, the work in ``NAME_run``, loaded when it runs."""
