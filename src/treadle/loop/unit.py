"""A user service that turns the loop: a systemd user unit or a launchd property list."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from treadle.base.errors import UsageError
from treadle.loop.project import Project


@dataclass(frozen=True)
class Unit:
    """A service file: where it goes, what it says and the command that starts it."""

    path: Path
    text: str
    start: str


def render(project: Project, environment: str, system: str | None = None) -> Unit:
    """The unit for this project and environment; pure but for the paths of this machine."""
    system = system or ("launchd" if sys.platform == "darwin" else "systemd")
    command = [sys.executable, "-m", "treadle", "up", "--watch", "--existing", "--env", environment]
    name = f"treadle-{project.spec.project}-{environment}"
    return (_launchd if system == "launchd" else _systemd)(project, name, command)


def _systemd(project: Project, name: str, command: list[str]) -> Unit:
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    text = f"""\
[Unit]
Description=Treadle turns the loop of {project.spec.project}
After=network.target

[Service]
WorkingDirectory={_systemd_quoted(str(project.folder))}
ExecStart={" ".join(_systemd_quoted(part) for part in command)}
Restart=on-failure
RestartSec=30
# 3: a gate or the data refused; 5: a person must decide. Neither is mended by starting again.
RestartPreventExitStatus=2 3 4 5

[Install]
WantedBy=default.target
"""
    return Unit(
        base / "systemd" / "user" / f"{name}.service",
        text,
        f"systemctl --user daemon-reload && systemctl --user enable --now {name}",
    )


def _systemd_quoted(text: str) -> str:
    """A word as systemd.service(5) reads it: % doubled, $ doubled, quotes and backslashes escaped."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if any(letter in text for letter in " \t'\"\\;") else text


def _launchd(project: Project, name: str, command: list[str]) -> Unit:
    label = f"dev.treadle.{project.spec.project}.{name.rpartition('-')[2]}"
    log = project.folder / ".treadle" / "watch.log"
    arguments = "\n".join(f"    <string>{escape(part)}</string>" for part in command)
    text = f"""\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>{escape(label)}</string>
  <key>ProgramArguments</key>
  <array>
{arguments}
  </array>
  <key>WorkingDirectory</key>
  <string>{escape(str(project.folder))}</string>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>Crashed</key>
    <true/>
  </dict>
  <key>StandardErrorPath</key>
  <string>{escape(str(log))}</string>
</dict>
</plist>
"""
    path = Path.home() / "Library" / "LaunchAgents" / f"{label}.plist"
    return Unit(path, text, f"launchctl bootstrap gui/$(id -u) {path}")


def install(unit: Unit) -> None:
    """Write the unit; an existing file with other content is not overwritten."""
    if unit.path.exists() and unit.path.read_text(encoding="utf-8") != unit.text:
        raise UsageError(
            f"{unit.path} exists and differs",
            hint="remove it first, or see the new text with --print",
        )
    unit.path.parent.mkdir(parents=True, exist_ok=True)
    unit.path.write_text(unit.text, encoding="utf-8")
