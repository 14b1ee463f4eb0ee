"""Studies: what is run, resumable records, tables and figures of the results.

``study`` reads a study from YAML; ``resolve`` gives each variant its settings; ``plan`` lists the cells;
``making`` and ``measuring`` are what a cell's process does; ``cells`` runs processes and knows nothing of
recommenders; ``records`` holds one JSON line a cell; ``summary``, ``aggregate``, ``tables``, ``claims``,
``leaderboard``, ``choice``, ``figures`` and ``report`` make of them what is read.
"""
