"""The part of csr's tab in which a person draws boxes on the image, with a mouse, a pen or a finger."""

from typing import Any, Literal

import gradio
from fastapi import HTTPException
from pydantic import BaseModel, ValidationError

NO_BOXES = {"sign": "positive", "boxes": []}
"""Value without boxes; the next one that is drawn is one to look at."""
MAX_BOXES = 50

TEMPLATE = """${picture ? `
<div class="bar" role="group" aria-label="Boxes">
<button type="button" data-sign="positive" aria-pressed="${value.sign === 'positive'}">Look here</button>
<button type="button" data-sign="negative" aria-pressed="${value.sign === 'negative'}">Not here</button>
<button type="button" data-remove="all" ${value.boxes.length ? '' : 'disabled'}>Remove boxes</button>
</div>
<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="The image, to draw boxes on">
<image href="${picture}" width="${width}" height="${height}" preserveAspectRatio="none"></image>
${value.boxes.map(one => `<rect class="${one.sign}" x="${one.box[0]}" y="${one.box[1]}"
 width="${one.box[2] - one.box[0]}" height="${one.box[3] - one.box[1]}"></rect>`).join('')}
</svg>` : ''}"""

STYLE = """
.bar { display: flex; flex-wrap: wrap; gap: 8px; margin-bottom: 8px }
.bar button { padding: 4px 12px; border: 2px solid #888; border-radius: 4px; cursor: pointer }
.bar button { background: none; color: inherit }
.bar button[data-sign=positive][aria-pressed=true] { background: #15803d; border-color: #15803d; color: white }
.bar button[data-sign=negative][aria-pressed=true] { background: #b91c1c; border-color: #b91c1c; color: white }
.bar button:disabled { opacity: 0.4; cursor: default }
svg { display: block; width: 100%; max-height: 24em; touch-action: none; cursor: crosshair; user-select: none }
rect { fill-opacity: 0.15; stroke-width: 3; vector-effect: non-scaling-stroke }
rect.positive { fill: #22c55e; stroke: #22c55e }
rect.negative { fill: #ef4444; stroke: #ef4444; stroke-dasharray: 6 4 }
"""

SCRIPT = """
const SMALLEST = 4; // pixels of the screen; a shorter stroke is a tap
let drawn = null;
const place = event => {
  const svg = element.querySelector('svg'), size = svg.viewBox.baseVal;
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  return [Math.min(Math.max(at.x, 0), size.width), Math.min(Math.max(at.y, 0), size.height)];
};
const spanned = ([ax, ay], [bx, by]) => [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)];
const stop = () => { drawn?.rect.remove(); drawn = null; };
element.addEventListener('pointerdown', event => {
  const svg = event.target.closest('svg');
  if (!svg || event.button || !event.isPrimary) return;
  event.preventDefault();
  svg.setPointerCapture(event.pointerId);
  const rect = svg.appendChild(document.createElementNS(svg.namespaceURI, 'rect'));
  rect.setAttribute('class', props.value.sign);
  drawn = {rect, from: place(event), x: event.clientX, y: event.clientY};
});
element.addEventListener('pointermove', event => {
  if (!drawn) return;
  const [x0, y0, x1, y1] = spanned(drawn.from, place(event));
  Object.entries({x: x0, y: y0, width: x1 - x0, height: y1 - y0}).forEach(([k, v]) => drawn.rect.setAttribute(k, v));
});
element.addEventListener('pointerup', event => {
  if (!drawn) return;
  const moved = Math.min(Math.abs(event.clientX - drawn.x), Math.abs(event.clientY - drawn.y));
  const box = spanned(drawn.from, place(event));
  stop();
  if (moved < SMALLEST || !(box[0] < box[2] && box[1] < box[3])) return;
  props.value = {...props.value, boxes: [...props.value.boxes, {sign: props.value.sign, box}]};
  trigger('input');
});
element.addEventListener('pointercancel', stop);
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button?.dataset.sign) props.value = {...props.value, sign: button.dataset.sign};
  if (button?.dataset.remove) { props.value = {...props.value, boxes: []}; trigger('input'); }
});
"""


class DrawnBox(BaseModel):
    """A box as x0, y0, x1, y1 in pixels of the image, and whether the model shall look there or not."""

    sign: Literal["positive", "negative"]
    box: tuple[float, float, float, float]


class Drawing(BaseModel):
    """Value of the canvas: the boxes, and the sign of the next one."""

    sign: Literal["positive", "negative"]
    boxes: list[DrawnBox]


def box_canvas(picture: str = "", width: int = 1, height: int = 1) -> gradio.HTML:
    """
    An image without boxes, on which they can be drawn; its event `input` follows each change of them.

    Args:
        picture: `data:` address of the image; empty for none, which hides the canvas.
        width, height: Size that the boxes refer to, in pixels; the picture may have another.
    """
    return gradio.HTML(
        NO_BOXES,
        picture=picture,
        width=width,
        height=height,
        html_template=TEMPLATE,
        css_template=STYLE,
        js_on_load=SCRIPT,
        apply_default_css=False,
    )


def drawn_boxes(value: Any) -> dict[str, list[tuple[float, float, float, float]]]:
    """
    The boxes of a canvas's value as the pipeline's `positive_boxes` and `negative_boxes`.

    Raises:
        HTTPException: 422 if a client sends something else, or more than `MAX_BOXES`.
    """
    try:
        boxes = Drawing.model_validate(value).boxes
    except ValidationError:
        raise HTTPException(422, "boxes need a sign and x0, y0, x1, y1 in pixels.") from None
    if len(boxes) > MAX_BOXES:
        raise HTTPException(422, f"{len(boxes)} boxes; at most {MAX_BOXES}.")
    return {f"{sign}_boxes": [one.box for one in boxes if one.sign == sign] for sign in ("positive", "negative")}
