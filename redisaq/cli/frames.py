"""The frames of `redisaq top`: what a terminal shows of a snapshot.

Input: a snapshot, what has been chosen, and the size of the terminal. Output: text. Pure functions. The words, letters and order are those
of the page. Without colours everything is still said: by letters, signs and `!!!`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from redisaq.cli.choosing import KEYS, Choice, rows, topics
from redisaq.cli.common import plain
from redisaq.watching import Attention, Curves, GroupView, MemberView, PartitionView, Snapshot, TopicView
from redisaq.watching.attention import NEAR_LIMIT, SLOW
from redisaq.watching.words import clock, count, duration, fine, group_name, many, per, ranges, rate, short

BLOCKS = " ▁▂▃▄▅▆▇█"
MEMBERS = ("#6a9433", "#d9cf7a", "#7fdcf0", "#8d78d8", "#c07ab6", "#b8686c", "#93a2f0", "#e8a3ac")
"""The colours of members: the hues of the page, on a dark ground."""

ACCENT, MUTED, BAD, WARN, GOOD = "#86a8f5", "grey58", "#ff8f83", "#e4b55f", "#7cc79a"
SIGNS = {"bad": ("▲", BAD), "warn": ("◆", WARN), "calm": ("‖", MUTED)}
STYLES = {"bad": f"bold {BAD}", "warn": WARN, "calm": MUTED, None: MUTED}

CURVE, RETRY, RUN = 124, 108, 96
"""Columns of a terminal from which on a table has each of these."""

POINTS = 12
"""Characters of a curve, of two values each."""

COLUMN, HEIGHT = 4, 8
"""Characters of a partition's column and its height."""

ATTENTION, HISTORY, ROWS = 6, 5, 8
"""Lines of each that a frame shows."""


def frame(snapshot: Snapshot, choice: Choice, width: int, height: int) -> RenderableType:
    """Return one frame: exactly what one snapshot says."""
    head = _head(snapshot, choice, width)
    if choice.help:
        return Group(head, Text(""), _keys())
    group = None if choice.open is None else snapshot.group(*choice.open)
    if choice.open is not None and group is not None:
        body = _group(snapshot, group, choice, width)
        foot = "←→ partition  a age  esc back  space freeze  ? keys  q quit"
    elif choice.open is not None:
        body = [Text(f"There is no group {plain(group_name(*choice.open))} any more.", style=WARN)]
        foot = "esc back  q quit"
    else:
        body = _overview(snapshot, choice, width, height)
        foot = "↑↓ choose  ⏎ open  o order  f filter  space freeze  ? keys  q quit"
    return Group(head, Text(""), *body, Text(""), _foot(choice, foot))


# -- parts -------------------------------------------------------------------------------------------------------------------------------


def _line(*parts: str | tuple[str, str] | Text) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    for part in parts:
        if isinstance(part, tuple):
            line.append(*part)
        else:
            line.append(part)
    return line


def _two(left: Text, right: Text) -> Table:
    line = Table.grid(expand=True)
    line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    line.add_column(justify="right", no_wrap=True)
    line.add_row(left, right)
    return line


def _head(snapshot: Snapshot, choice: Choice, width: int) -> Table:
    server = snapshot.server
    where = f"{server.url} / {server.namespace}" if server.namespace else server.url
    left = _line(("redisaq top", "bold"), (f"   {plain(where)}   {plain(server.name)}" if width >= CURVE else f"  {plain(where)}", MUTED))
    time = clock(snapshot.at) if snapshot.at else ""
    if choice.frozen:
        return _two(left, _line(("‖ frozen  ", f"bold {WARN}"), time))
    if server.state == "away":
        return _two(left, _line((f"▲ away since {clock(server.since)}", f"bold {BAD}"), f"  {time}"))
    if server.state == "connecting":
        return _two(left, _line(("… connecting", MUTED)))
    return _two(left, _line(("● ", GOOD), ("every 2 s  ", MUTED), time))


def _foot(choice: Choice, keys: str) -> Text:
    if choice.typing:
        return _line((" filter ", "bold reverse"), f" {plain(choice.words)}▏")
    line = _line()
    for pair in keys.split("  "):
        key, _, word = pair.partition(" ")
        line.append(f" {key} ", style="bold reverse").append(f" {word} ", style=MUTED)
    if choice.topic:
        line.append(f"  topic: {plain(choice.topic)}", style=WARN)
    if choice.words:
        line.append(f"  filter: {plain(choice.words)}", style=WARN)
    return line


def _keys() -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    for key, meaning in KEYS:
        table.add_row(Text(key, style="bold"), meaning)
    return table


def _attention(found: Sequence[Attention], well: str) -> list[RenderableType]:
    title = Text("NEEDS ATTENTION" + (f" ({len(found)})" if found else ""), style=MUTED)
    if not found:
        return [title, _line(("✓ ", GOOD), plain(well))] if well else []
    subjects = [_line((plain(one.subject), "bold")) for one in found[:ATTENTION]]
    room = min(32, max(subject.cell_len for subject in subjects))
    lines: list[Text] = []
    for one, subject in zip(found, subjects, strict=False):
        subject.truncate(room, overflow="ellipsis", pad=True)
        what = " ".join(part for part in (one.sentence, one.code, one.more) if part)
        lines.append(_line(SIGNS[one.severity], "  ", subject, "  ", plain(what)))
    rest = len(found) - ATTENTION
    return [title, Group(*lines), *([Text(f"  and {rest} more", style=MUTED)] if rest > 0 else [])]


def _overview(snapshot: Snapshot, choice: Choice, width: int, height: int) -> list[RenderableType]:
    if not snapshot.topics:
        if snapshot.server.state == "connecting":
            return []
        others = snapshot.server.other_keys
        more = f" The database has {many(others, 'other key')}: compare the namespace and the database." if others else ""
        return [*_attention(snapshot.attention, ""), Text(f"No topics yet.{more}")]
    if choice.topic and not topics(snapshot, choice):
        return [Text(f"There is no topic {plain(choice.topic)}.", style=WARN)]
    found = [one for one in snapshot.attention if choice.topic in ("", one.screen.topic)]
    top = _attention(found, "" if choice.topic else snapshot.well)
    used = min(len(found), ATTENTION) + (len(found) > ATTENTION) + 1 + bool(not found)
    return [*top, Text(""), _table(snapshot, choice, width, max(3, height - used - 7))]


def _table(snapshot: Snapshot, choice: Choice, width: int, lines: int) -> Table:
    found = rows(snapshot, choice)
    names = [(topic.topic, group.group if group else "") for topic, group in found]
    chosen = names.index(choice.row) if choice.row in names else 0
    first = max(0, min(chosen - lines // 2, len(found) - lines))
    table = Table(box=None, expand=True, pad_edge=False, padding=(0, 1, 0, 0), header_style=MUTED)
    wide = {"24 MIN": CURVE, "RETRY": RETRY, "RUN": RUN}
    right = {"IN/s", "OUT/s", "BACKLOG", "OLDEST", "RUN", "RETRY", "DEAD"}
    heads = [
        head
        for head in ("TOPIC", "GROUP", "IN/s", "OUT/s", "24 MIN", "BACKLOG", "", "OLDEST", "RUN", "RETRY", "DEAD", "MEMBERS", "STATE")
        if width >= wide.get(head, 0)
    ]
    for head in heads:
        long = head in ("TOPIC", "GROUP")
        table.add_column(head, justify="right" if head in right else "left", no_wrap=True, overflow="ellipsis", ratio=2 if long else None)
    for number, (topic, group) in list(enumerate(found))[first : first + lines]:
        cells = _cells(topic, group)
        repeated = number > first and found[number - 1][0] is topic
        cells["TOPIC"] = Text("") if repeated else _line((plain(topic.topic), "bold"), (f" {count(topic.partitions)}", MUTED))
        table.add_row(*(cells.get(head, Text("")) for head in heads), style="on grey19 bold" if number == chosen else "")
    left = len(found) - first - lines
    if left > 0:
        table.add_row(Text(f"… {count(left)} more", style=MUTED))
    return table


def _cells(topic: TopicView, group: GroupView | None) -> dict[str, Text]:
    if group is None:
        return {"GROUP": Text("–", style=MUTED), "IN/s": Text(rate(topic.arriving)), "STATE": Text("no group reads it", style=MUTED)}
    bad = STYLES["bad"] if group.state == "behind" else ""
    return {
        "GROUP": Text(plain(group.group)),
        "IN/s": Text(rate(group.arriving)),
        "OUT/s": Text(rate(group.handled), style=bad),
        "24 MIN": _flow(group.arriving_curve, group.handled_curve),
        "BACKLOG": _number(group.backlog, bad),
        "": _trend(group),
        "OLDEST": Text("–" if group.oldest is None else duration(group.oldest), style=bad or ("" if group.oldest else MUTED)),
        "RUN": Text("–", style=MUTED) if group.running is None else _number(group.running),
        "RETRY": _number(group.retry),
        "DEAD": _number(group.dead, STYLES["bad"] if group.fresh else ""),
        "MEMBERS": _letters(group.members),
        "STATE": Text("" if group.state == "keeps up" else group.state, style=STYLES[group.severity]),
    }


def _number(number: int, style: str = "") -> Text:
    return Text(short(number), style=style or ("" if number else MUTED))


def _letters(members: Sequence[MemberView]) -> Text:
    if not members:
        return Text("none", style=WARN)
    if len(members) > 8:  # noqa: PLR2004 -- as many as there are colours
        return Text(f"×{len(members)}", style=MUTED)
    line = Text(no_wrap=True)
    for member in members:
        line.append(member.tag, style=_colour(member.slot))
    return line


def _colour(slot: int) -> str:
    return f"bold black on {MEMBERS[slot % 8]}" + (" italic" if slot % 16 >= 8 else "")  # noqa: PLR2004 -- the second eight


def _flow(arriving: Curves | None, handled: Curves | None) -> Text:
    """Return what goes out, half a line high when it keeps up; amber where less goes out than comes in."""
    line = Text(no_wrap=True)
    if arriving is None or handled is None:
        return line
    pairs = list(zip(arriving.near.values, handled.near.values, strict=True))[-72::6]
    top = max((value for pair in pairs for value in pair if value is not None), default=0.0)
    for come, gone in pairs[-POINTS:]:
        if come is None or gone is None:
            line.append(" ")  # a gap
            continue
        level = math.ceil(gone / top * 5) if top else 0
        line.append(BLOCKS[max(1, min(8, level))], style=WARN if gone < 0.8 * come else ACCENT)
    return line


def _trend(group: GroupView) -> Text:
    if group.arriving is None or group.handled is None or group.arriving - group.handled <= 0.2 * group.arriving:
        return Text("")
    return Text("▲", style=BAD if group.state == "behind" else WARN)


# -- a group -----------------------------------------------------------------------------------------------------------------------------


def _group(snapshot: Snapshot, group: GroupView, choice: Choice, width: int) -> list[RenderableType]:
    parts: list[RenderableType] = [_facts(group), *_own_attention(snapshot, group), Text("")]
    if group.partitions:
        parts += _skyline(group, choice, width)
    chosen = next((one for one in group.partitions if one.partition == choice.partition), None)
    if chosen is not None:
        parts.append(_partition(group, chosen, snapshot.at))
    parts += [Text(""), _members(group, width)]
    if group.in_handlers is not None:
        parts += [Text(""), _handlers(group, snapshot.at)]
    if group.history:
        parts += [Text(""), _history(group)]
    return parts


def _facts(group: GroupView) -> Text:
    style = STYLES["bad"] if group.state == "behind" else "bold"
    line = _line((plain(group_name(group.topic, group.group)), "bold"), "  ", (f" {group.state} ", f"{STYLES[group.severity]} reverse"))
    facts = [
        ("in", per(group.arriving), "bold"),
        ("out", per(group.handled), "bold"),
        ("backlog", short(group.backlog), style),
        ("oldest", "–" if group.oldest is None else fine(group.oldest), style),
        ("caught up", _caught_up(group), "bold"),
        ("retries", short(group.retry), "bold"),
        ("dead", short(group.dead), STYLES["bad"] if group.fresh else "bold"),
    ]
    for word, value, value_style in facts:
        line.append(f"  {word} ", style=MUTED).append(value, style=value_style)
    if group.within > 5:  # noqa: PLR2004 -- two looks are no age
        line.append(f"  within {duration(group.within)}", style=MUTED)
    line.no_wrap = False
    return line


def _caught_up(group: GroupView) -> str:
    seconds = group.caught_up_in
    if seconds is None:
        return "–"
    return "never" if math.isinf(seconds) else "now" if not seconds else f"in {duration(seconds)}"


def _own_attention(snapshot: Snapshot, group: GroupView) -> list[RenderableType]:
    own = [one for one in snapshot.attention if (one.screen.topic, one.screen.group) == (group.topic, group.group)]
    return [_attention(own, "")[1]] if own else []


def _skyline(group: GroupView, choice: Choice, width: int) -> list[RenderableType]:
    """Return the partitions as columns; of too many the worst, and how many there are besides."""
    column = max(COLUMN, len(str(group.partitions[-1].partition)) + 1)
    room = max(1, (width - 8) // column)
    shown: Sequence[PartitionView] = group.partitions
    if len(shown) > room:
        worst = sorted(shown, key=lambda one: (one.owner is not None or not group.members, one.partition != choice.partition, -one.backlog))
        shown = worst[:room]
    values = [float(one.backlog) if choice.height == "messages" else one.oldest or 0.0 for one in shown]
    top = max(*values, 1.0)
    lines: list[RenderableType] = []
    for level in range(HEIGHT, 0, -1):
        value = level / HEIGHT * top
        label = (short(value) if choice.height == "messages" else duration(value)) if level % 4 == 0 else ""
        line = _line((f"{label:>7} ", MUTED))
        for one, size in zip(shown, values, strict=True):
            part = size / top * HEIGHT - (level - 1)
            block = BLOCKS[max(0, min(8, math.ceil(part * 8)))]
            line.append(block * (column - 1) + " ", style=BAD if one.owner is None else MEMBERS[one.owner % 8])
        lines.append(line)
    tags = {member.slot: member.tag for member in group.members}
    owners, numbers = _line(("owner   ", MUTED)), _line(("        ", MUTED))
    for one in shown:
        tag = None if one.owner is None else tags.get(one.owner, "?")
        owners.append(
            "!" * (column - 1) if tag is None else f"{tag:^{column - 1}}",
            style=f"bold {BAD} reverse" if one.owner is None else _colour(one.owner),
        ).append(" ")
        numbers.append(f"{one.partition:>{column - 1}} ", style="bold reverse" if one.partition == choice.partition else MUTED)
    lines += [owners, numbers]
    if len(shown) < len(group.partitions):
        lines.append(
            Text(f"        the worst of {count(len(group.partitions))}, and {count(len(group.partitions) - len(shown))} more", style=MUTED)
        )
    return lines


def _partition(group: GroupView, one: PartitionView, at: float) -> Text:
    member = next((member for member in group.members if member.slot == one.owner), None)
    unowned = None if one.unowned is None else at - one.unowned
    who = f"nobody for {duration(unowned)}" if member is None else f"{member.tag} {plain(member.place)}"
    line = _line(
        (f"partition {one.partition}  ", "bold"),
        f"owner {who}, token {one.token}  unread {count(one.unread)}  pending {count(one.pending)}",
    )
    line.append(f"  retries {count(one.retry)}  dead {count(one.dead)}  delivered up to {plain(one.last_delivered)}")
    if one.oldest is not None:
        line.append(f"  oldest {fine(one.oldest)}")
    if one.deliveries:
        line.append("  deliveries " + ", ".join(f"{times}: {count(entries)}" for times, entries in one.deliveries.items()))
    line.no_wrap = False
    return line


def _members(group: GroupView, width: int) -> RenderableType:
    if not group.members:
        return Text("No members.", style=WARN)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=MUTED, pad_edge=False)
    for name in ("", "MEMBER", "VERSION", "SINCE", "OWNS", "HEARTBEAT", ""):
        table.add_column(name, justify="right" if name in ("OWNS", "HEARTBEAT") else "left", no_wrap=True, overflow="ellipsis")
    for member in group.members[:ROWS]:
        beat, bar, style = "–", Text(""), ""
        if member.heartbeat is not None and member.ttl is not None:
            part = min(1.0, member.heartbeat / member.ttl)
            style = f"bold {BAD}" if part > 0.5 else ""  # noqa: PLR2004 -- as the rule
            beat, full = f"{member.heartbeat:.1f} s", max(1, round(part * 10))
            bar = _line(("━" * full, BAD if style else MUTED), ("·" * (10 - full), "grey23"))
        since = "" if member.since is None else clock(member.since, seconds=False)
        owns = str(len(member.owns)) if width < CURVE or not member.owns else ranges(member.owns)
        who = Text(plain(member.place) + (" (waits)" if member.waiting else ""))  # a str would be read as markup
        version = Text(plain(member.version))
        table.add_row(Text(f" {member.tag} ", style=_colour(member.slot)), who, version, since, owns, Text(beat, style=style), bar)
    if len(group.members) > ROWS:
        table.add_row("", Text(f"and {len(group.members) - ROWS} more", style=MUTED))
    return table


def _handlers(group: GroupView, at: float) -> RenderableType:
    if not group.in_handlers:
        return Text("Nothing is in a handler.", style=MUTED)
    tags = {member.slot: member.tag for member in group.members}
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=MUTED, pad_edge=False)
    for name in ("IN A HANDLER", "KEY", "PART", "BY", "TRY", "FOR"):
        table.add_column(name, justify="right" if name in ("PART", "TRY", "FOR") else "left", no_wrap=True, overflow="ellipsis")
    for one in group.in_handlers[:ROWS]:
        seconds = max(0.0, at - one.since)
        slow = seconds > (SLOW if one.limit is None else NEAR_LIMIT * one.limit)
        by = Text(f" {tags.get(one.member, '?')} ", style=_colour(one.member))
        key = Text(plain(one.key or "–"))
        age = Text(duration(seconds), style=f"bold {WARN}" if slow else "")
        table.add_row(Text(plain(one.msg_id), style=ACCENT), key, str(one.partition), by, str(one.attempt), age)
    return table


def _history(group: GroupView) -> RenderableType:
    tags = {member.slot: member.tag for member in (*group.members, *group.gone)}
    table = Table.grid(padding=(0, 2, 0, 0))
    for one in (group.history or ())[:HISTORY]:
        tag = "" if one.member is None else tags.get(one.member, "")
        table.add_row(Text(clock(one.at), style=MUTED), tag, Text(plain(one.sentence), style=BAD if one.what == "taken for dead" else ""))
    return table
