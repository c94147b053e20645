"""What runs a service's processes: the manifest that names them and the supervisor that keeps them.

``mainstay.toml`` is read by `manifest`; `commands` and `environment` say how each process is
started; `supervisor` keeps them running and `leash` ends them when the supervisor is gone.
"""
