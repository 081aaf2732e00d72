// Reading a tile's answer by the role of its columns.

import type { Cell, Column, Format, Table, TileAnswer } from './api'

export function columnFormat(column: Column): Format {
  if (column.format) return column.format
  if (column.name.endsWith('_fen')) return 'fen'
  const type = (column.type ?? '').toLowerCase()
  if (type.startsWith('timestamp')) return 'timestamp'
  if (type.startsWith('date')) return 'date'
  if (/int|float|double|decimal|numeric/.test(type) && !column.name.endsWith('_id')) return 'number'
  return 'text'
}

/** Columns that measure, without the ones a comparison added. */
export function measures(table: Table): { column: Column; index: number }[] {
  return table.columns
    .map((column, index) => ({ column, index }))
    .filter(({ column }) => isMeasure(column) && !isComparison(table, column))
}

function isMeasure(column: Column): boolean {
  if (column.kind) return column.kind === 'metric'
  return ['fen', 'number', 'count', 'percent', 'days'].includes(columnFormat(column))
}

function isComparison(table: Table, column: Column): boolean {
  const base = /^(.*)_(previous|change)$/.exec(column.name)?.[1]
  return base !== undefined && table.columns.some((other) => other.name === base)
}

export function indexOf(table: Table, name: string): number {
  return table.columns.findIndex((column) => column.name === name)
}

/** The column a chart is split by: time if there is one, else the first dimension. */
export function axis(table: Table): { column: Column; index: number } | null {
  const byKind = (kind: string) => table.columns.findIndex((column) => column.kind === kind)
  const time = byKind('time')
  const index = time >= 0 ? time : byKind('dimension')
  const column = table.columns[index]
  return column ? { column, index } : null
}

export function cell(table: Table, row: number, column: number): Cell {
  return table.rows[row]?.[column] ?? null
}

export function errorOf(answer: TileAnswer): string | null {
  if (!('error' in answer) || !answer.error) return null
  return typeof answer.error === 'string' ? answer.error : answer.error.message
}

/** Whether there is nothing to draw: no rows, or no measured value in any of them. */
export function isEmpty(table: Table): boolean {
  const measured = measures(table)
  if (table.rows.length === 0) return true
  if (measured.length === 0) return false
  return table.rows.every((row) => measured.every(({ index }) => row[index] === null))
}

/** The one value that stands for a tile: of a course of time the latest, else the first. */
export function mainValue(table: Table): string {
  const byTime = table.columns.some((column) => column.kind === 'time')
  const row = byTime ? table.rows.length - 1 : 0
  const value = cell(table, row, measures(table)[0]?.index ?? 0)
  return value === null ? '' : String(value)
}
