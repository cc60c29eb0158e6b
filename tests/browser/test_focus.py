"""The focus ring: whatever the keyboard reaches has one that can be seen on all four sides."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from tests.support.airflow_api import AirflowApi, Task, row_of, summary_of
from tests.support.browser import open_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


MAX_STOPS = 80

# What is focused, in words, and the box inside its ring: of the node, of the card around it, or of a bar's frame.
FOCUSED = """() => {
    const node = document.activeElement;
    if (!node || node === document.body) return null;
    let framed = node.querySelector(":scope > .hit") ?? node;
    while (framed.parentElement && framed === node && getComputedStyle(framed).outlineStyle === "none")
        framed = framed.parentElement.closest(".card");
    framed.scrollIntoView({ block: "center" });
    const { x, y, width, height } = framed.getBoundingClientRect();
    const words = `${node.tagName}.${node.getAttribute("class") ?? ""} "${node.textContent.trim().slice(0, 30)}"`;
    return { words, box: { x, y, width, height } };
}"""

# How much of the middle of each side has the color of the ring, in a picture of the window.
SIDES = """async ({ picture, box, color }) => {
    const image = new Image();
    image.src = `data:image/png;base64,${picture}`;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height);
    const context = canvas.getContext("2d");
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const ring = context.getImageData(0, 0, 1, 1).data;
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, image.width, image.height);
    const isRing = (x, y) => {
        const at = 4 * (Math.round(y) * image.width + Math.round(x));
        return [0, 1, 2].every(channel => Math.abs(data[at + channel] - ring[channel]) < 24);
    };
    const OUTSIDE = 5, INSIDE = 4;
    const share = (length, isHit) => {
        const steps = Array.from({ length: 40 }, (_, at) => length * (0.25 + (0.5 * at) / 39));
        return steps.filter(isHit).length / steps.length;
    };
    const near = (edge, outwards, isHit) =>
        Array.from({ length: OUTSIDE + INSIDE + 1 }, (_, at) => edge + outwards * (at - INSIDE)).some(isHit);
    const { x, y, width, height } = box;
    return {
        top: share(width, along => near(y, -1, across => isRing(x + along, across))),
        bottom: share(width, along => near(y + height - 1, 1, across => isRing(x + along, across))),
        left: share(height, along => near(x, -1, across => isRing(across, y + along))),
        right: share(height, along => near(x + width - 1, 1, across => isRing(across, y + along))),
    };
}"""

PLAN = Task(
    {
        "summary": summary_of(3, PLANNED=3, dry_run=True),
        "return_value": [row_of(at, status="PLANNED") for at in range(3)],
    },
    run_id="manual__1",
)
REAL = Task(
    {
        "summary": summary_of(3, SCHEDULED=1, FAILED=1, INVALID=1, started_at="2026-11-23T00:00:00+00:00"),
        "return_value": [row_of(0), row_of(1, status="FAILED", reason="no slot"), row_of(2, status="INVALID")],
        "unscheduled": [row_of(1, status="FAILED", reason="no slot"), row_of(2, status="INVALID")],
    },
    run_id="manual__2",
    start_date="2026-11-23T00:00:00+00:00",
)
LOOK = Task(
    {
        "summary": {
            "looked_at": "2026-11-28T06:00:12+00:00",
            "instance": "acme",
            "devices": 900,
            "by_week": [{"week": "2026-W48", "scheduled": 3, "gone": 2, "returned": 0, "net": 2}],
            "quota": None,
        }
    },
    dag_id="seats",
    task_id="reconcile",
    operator="NexthinkReconcileOperator",
    start_date="2026-11-28T06:00:00+00:00",
)

VIEWS = {
    "runs": ("", ".run-table tbody tr"),
    "outcome": (f"?{urlencode(REAL.entry)}", ".rows .row"),
    "attention": ("?view=attention", ".rows .row"),
    "seats": ("?view=seats", ".seats-table tbody tr"),
    "find": (f"?view=find&q={row_of(1)['uid']}", ".rows .row"),
}


def hidden_sides(page: Page, reader: Page, box: dict[str, float]) -> dict[str, float]:
    """Return the sides of the ring around a box that are not to be seen, with how much of them is."""
    color = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--accent')")
    picture = base64.b64encode(page.screenshot(animations="disabled")).decode()
    sides: dict[str, float] = reader.evaluate(SIDES, {"picture": picture, "box": box, "color": color})
    return {side: share for side, share in sides.items() if share < 0.9}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_focus_ring_is_visible_around_all_that_the_keyboard_reaches(
    browser: Browser, address: str, api: AirflowApi, view: str, theme: Any
) -> None:
    api.tasks = [REAL, PLAN, LOOK]
    path, row = VIEWS[view]
    with open_page(browser, address, theme=theme) as page:
        page.clock.set_fixed_time("2026-11-28T12:00:00Z")
        page.set_viewport_size({"width": 1280, "height": 1000})
        page.goto(path)
        expect(page.locator(row).first).to_be_visible(timeout=60_000)
        expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
        reader = page.context.new_page()
        page.bring_to_front()
        page.evaluate("document.body.tabIndex = -1; document.body.focus()")  # Tab begins at the top
        reached, hidden = [], {}
        for _ in range(MAX_STOPS):
            page.keyboard.press("Tab")
            focused = page.evaluate(FOCUSED)
            if focused is None:
                break
            reached.append(focused["words"])
            if sides := hidden_sides(page, reader, focused["box"]):
                hidden[focused["words"]] = sides
    assert len(reached) > 5
    assert len(reached) < MAX_STOPS
    assert hidden == {}
