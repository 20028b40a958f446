"""What a part is: a server that can be prepared, started and asked whether it is healthy."""
import string

from ..base import CONF


class Part:
    """One server of the stack. Subclasses say what is particular to it; starting and stopping is the same for all."""

    name = ""
    title = ""          # what it is, for tables and the README
    ports = ()          # names under which its ports are kept; the first is the one people are shown
    start_timeout_s = 60
    stop_grace_s = 15

    def prepare(self, home):
        """Writes configuration and makes data folders. Runs before every start; must be quick and repeatable."""

    def command(self, home):
        """(argv, environment, working folder). The program must stay in the foreground."""
        raise NotImplementedError

    def probe(self, home):
        """None when healthy, else one line that says what is wrong."""
        raise NotImplementedError

    def ready(self, home):
        """What must be there once it is healthy, before anybody uses it. Runs after every start; repeatable."""

    def port(self, home):
        return home.port(self.ports[0])


def fill(template, **values):
    """A configuration file from deploy/dev/conf with its ${...} replaced; a missing value is an error."""
    path = template if hasattr(template, "read_text") else CONF / template
    return string.Template(path.read_text()).substitute(values)
