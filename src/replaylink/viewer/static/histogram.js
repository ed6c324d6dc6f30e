// Lines over time, by severity; what is dragged over becomes the time range.
import { clockOf, dateOf } from './common.js'

const SEVERITIES = ['trace', 'debug', 'info', 'warn', 'error', 'fatal'] // from the bottom up
const DAY = 86400
const UNITS = [[DAY, 'day'], [3600, 'hour'], [60, 'minute'], [1, 'second']]

/** The length of a bar in words. */
function inWords(seconds) {
  const [size, name] = UNITS.find(([each]) => seconds % each === 0) ?? UNITS.at(-1)
  const count = seconds / size
  return `${count.toLocaleString()} ${name}${count === 1 ? '' : 's'}`
}

/** What stands below the bars: times, but the date where a day begins, as in the list. */
function ticks(seconds, step) {
  const moments = seconds.map((each) => new Date(each * 1000))
  const withYear = new Set(moments.map((moment) => moment.getFullYear())).size > 1
  const precision = step < 1 ? 'millisecond' : step < 60 ? 'second' : 'minute'
  return moments.map((moment) => {
    const isDay = step >= DAY || clockOf(moment, 'millisecond') === '00:00:00.000'
    return isDay ? dateOf(moment, withYear) : clockOf(moment, precision)
  })
}

export class Histogram {
  #place
  #onZoom
  #chart
  #data
  #tip = document.createElement('div')

  /**
   * @param place The element to draw into.
   * @param onZoom Called with the first and last second since the epoch.
   */
  constructor(place, onZoom) {
    this.#place = place
    this.#onZoom = onZoom
    this.#tip.className = 'tip'
    this.#tip.hidden = true
    new ResizeObserver(() => this.#chart?.setSize(this.#size())).observe(place)
    const redraw = () => this.#data && this.show(this.#data)
    addEventListener('themechange', redraw)
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw)
  }

  #size() {
    return { width: this.#place.clientWidth, height: this.#place.clientHeight }
  }

  /** The colour of a class, resolved: a canvas knows no light-dark(). */
  #colour(className, property = 'color') {
    const probe = document.createElement('span')
    probe.className = className
    this.#place.append(probe)
    const colour = getComputedStyle(probe)[property]
    probe.remove()
    return colour
  }

  show(data) {
    this.#data = data
    this.#chart?.destroy()
    this.#chart = null
    const length = data.counts.info.length
    this.#place.hidden = !length
    if (!length) return
    // The middle of each bar; each severity stands on those that are milder.
    const times = Array.from({ length }, (_, i) => data.from + (i + 0.5) * data.step)
    const totals = new Array(length).fill(0)
    const stacked = SEVERITIES.map((name) => data.counts[name].map((n, i) => (totals[i] += n)))
    const highest = Math.max(...totals, 1)
    const muted = this.#colour('hint')
    const axis = { stroke: muted, font: '11px system-ui', ticks: { show: false } }
    const bars = uPlot.paths.bars({ size: [0.86, Infinity] })
    const series = SEVERITIES.map((name) => ({
      label: name,
      fill: this.#colour(`severity severity-${name}`),
      width: 0,
      paths: bars,
      points: { show: false },
    }))
    this.#chart = new uPlot(
      {
        ...this.#size(),
        padding: [6, 8, 0, 0],
        legend: { show: false },
        scales: {
          x: { range: [data.from, data.to] },
          y: { range: [0, highest * 1.05] },
        },
        axes: [
          {
            ...axis,
            size: 22,
            space: 90,
            grid: { show: false },
            values: (_, times, axisIndex, space, step) => ticks(times, step),
          },
          {
            ...axis,
            size: 48,
            space: 30,
            incrs: [1, 2, 5].flatMap((n) => Array.from({ length: 9 }, (_, i) => n * 10 ** i)).sort((a, b) => a - b),
            grid: { stroke: muted, width: 0.25 },
            values: (_, values) => values.map((n) => n.toLocaleString()),
          },
        ],
        cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
        // The tallest first, so that the milder ones are drawn over it.
        series: [{}, ...series.reverse()],
        hooks: {
          setSelect: [(chart) => this.#select(chart)],
          setCursor: [(chart) => this.#showTip(chart)],
        },
      },
      [times, ...stacked.reverse()],
      this.#place,
    )
    this.#place.append(this.#tip)
    this.#followFinger(this.#chart)
    const worst = SEVERITIES.filter((name) => data.counts[name].some(Boolean)).at(-1)
    const at = (seconds) => {
      const moment = new Date(seconds * 1000)
      return `${dateOf(moment, true)} ${clockOf(moment, 'second')}`
    }
    this.#place.setAttribute(
      'aria-label',
      `Lines over time, by severity: from ${at(data.from)} to ${at(data.to)}, ` +
        `up to ${highest.toLocaleString()} in ${inWords(data.step)}, the worst is ${worst}`,
    )
  }

  /** Lets a finger drag, too: the chart knows the mouse only. */
  #followFinger(chart) {
    const { over } = chart
    let start = null
    const x = (event) => Math.min(Math.max(event.clientX - over.getBoundingClientRect().left, 0), over.clientWidth)
    const select = (from, to, isDone) => {
      const box = { left: Math.min(from, to), width: Math.abs(to - from), top: 0, height: over.clientHeight }
      chart.setSelect(box, isDone)
    }
    const end = () => {
      start = null
      select(0, 0, false)
    }
    over.addEventListener('pointerdown', (event) => {
      if (event.pointerType !== 'mouse' && event.isPrimary) start = x(event)
    })
    over.addEventListener('pointermove', (event) => {
      if (start !== null && event.isPrimary) select(start, x(event), false)
    })
    over.addEventListener('pointerup', (event) => {
      if (start === null || !event.isPrimary) return
      select(start, x(event), true)
      end()
    })
    over.addEventListener('pointercancel', end) // the page is being scrolled instead
  }

  #select(chart) {
    const { left, width } = chart.select
    if (width < 4) return
    const { from, to, step } = this.#data
    // Whole bars: what looks chosen is chosen.
    const bar = (x) => (chart.posToVal(x, 'x') - from) / step
    const first = from + Math.max(Math.floor(bar(left)), 0) * step
    const last = Math.min(from + Math.ceil(bar(left + width)) * step, to)
    this.#onZoom(first, last)
  }

  #showTip(chart) {
    const i = chart.cursor.idx
    const { counts, from, step } = this.#data
    if (i == null || chart.cursor.left < 0) {
      this.#tip.hidden = true
      return
    }
    const parts = SEVERITIES.toReversed().filter((name) => counts[name][i])
    const moment = new Date((from + i * step) * 1000)
    const at = `${dateOf(moment)} ${clockOf(moment, step < 1 ? 'millisecond' : 'second')}`
    this.#tip.textContent = [at, ...parts.map((name) => `${counts[name][i]} ${name}`)].join('  ')
    this.#tip.hidden = false
    const room = this.#place.clientWidth - this.#tip.offsetWidth
    this.#tip.style.left = `${Math.max(Math.min(chart.cursor.left + 60, room), 0)}px`
  }
}
