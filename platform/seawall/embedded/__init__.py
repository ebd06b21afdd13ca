"""Valkey (or Redis) and PostgreSQL for a machine that has neither: started on demand, gone with their users.

`attach(home)` gives the URLs of the servers of one home directory and starts them when they do not run.
A separate process, the keeper, owns the servers; it lives as long as anybody holds an attachment and a
moment longer, and takes the servers down with it. How: `keeper` (the life of the servers), `attachment` (how
processes find and start the one keeper of a home), `site` (where everything lies, and as which user the
servers run), `programs` (where the binaries come from), `engines` (what is particular to each server).
"""

from seawall.embedded.attachment import Attachment, Servers, Status, attach, check, find, status

__all__ = ["Attachment", "Servers", "Status", "attach", "check", "find", "status"]
