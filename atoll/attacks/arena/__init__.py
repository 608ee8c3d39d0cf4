"""Arena: attacks on the captures of defended federations, as independent jobs, with statistics.

Nothing here knows Ray: :func:`run_jobs` takes a callable that maps a function over workers.
"""
