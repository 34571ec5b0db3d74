"""The worker: runs an App in several processes, keeps them running, and reports on them over HTTP.

Who watches whom:

- The *parent* (`parent`) runs no code of the program. It starts each *child* as a new interpreter, with a pipe between the two. A child
  that ends although nobody asked for it is started again, after a pause; too many such ends in a minute end the parent.
- A child (`child`) imports the program, serves its App, and sends reports over the pipe (`reports`), from a timer of its event loop.
- What the parent knows of its children (`crew`, `totals`) comes from these reports alone, so that it can answer probes and Prometheus
  (`answers`, `http`) while a child, or the server, does not answer at all.
- If the parent is killed, its end of the pipe closes, and the children drain.
"""
