//! Bar charts of the counts, as SVG files in `docs/plots`, each for a light and for a dark page.

use super::counts::Row;
use crate::tools;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// A chart: its file, its title, and the parts that it shows.
struct Chart {
    file: &'static str,
    title: &'static str,
    shows: fn(&str) -> bool,
}

fn is_vmbus(part: &str) -> bool {
    ["vmbus", "storvsc", "netvsc"].iter().any(|family| part.starts_with(family))
}

fn is_vmware(part: &str) -> bool {
    ["pvscsi", "vmxnet3"].iter().any(|family| part.starts_with(family))
}

fn is_xen(part: &str) -> bool {
    ["blkfront", "netfront"].iter().any(|family| part.starts_with(family))
}

const CHARTS: [Chart; 4] = [
    Chart {
        file: "virtio",
        title: "virtio: instructions for one request or frame",
        shows: |part| !is_vmbus(part) && !is_vmware(part) && !is_xen(part),
    },
    Chart { file: "vmbus", title: "VMBus: instructions for one request or frame", shows: is_vmbus },
    Chart { file: "vmware", title: "VMware: instructions for one request or frame", shows: is_vmware },
    Chart { file: "xen", title: "Xen: instructions for one request or frame", shows: is_xen },
];

/// Colours of a page.
struct Theme {
    name: &'static str,
    page: &'static str,
    text: &'static str,
    faint: &'static str,
    line: &'static str,
    ours: &'static str,
    peer: &'static str,
}

const THEMES: [Theme; 2] = [
    Theme {
        name: "light",
        page: "#ffffff",
        text: "#1f2328",
        faint: "#59636e",
        line: "#d1d9e0",
        ours: "#2563c9",
        peer: "#a9b2bc",
    },
    Theme {
        name: "dark",
        page: "#0d1117",
        text: "#f0f6fc",
        faint: "#9198a1",
        line: "#3d444d",
        ours: "#5b9dff",
        peer: "#6e7681",
    },
];

/// Writes every chart in both variants to `docs/plots`; a chart of which nothing was measured is left as it is.
pub fn plot(rows: &[Row]) -> Result<()> {
    write_to(&tools::root().join("docs/plots"), rows)
}

fn write_to(folder: &Path, rows: &[Row]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for chart in &CHARTS {
        let groups = groups(rows, chart.shows);
        if groups.is_empty() {
            continue;
        }
        for theme in &THEMES {
            let path = folder.join(format!("{}-{}.svg", chart.file, theme.name));
            fs::write(&path, draw(chart.title, &groups, theme)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// One of our parts, beside the part of `virtio-drivers` that does the same, where there is one.
#[derive(Debug, PartialEq, Eq)]
struct Group<'a> {
    part: &'a str,
    ours: Costs,
    peer: Option<Costs>,
}

/// The cost in the smallest and in the largest batch that was measured.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Costs {
    alone: u64,
    batch: u64,
    batch_size: u64,
}

fn costs(rows: &[Row], part: &str) -> Option<Costs> {
    let of_part = || rows.iter().filter(|row| row.part == part);
    let (least, most) = (of_part().min_by_key(|row| row.batch)?, of_part().max_by_key(|row| row.batch)?);
    Some(Costs { alone: least.instructions, batch: most.instructions, batch_size: most.batch })
}

/// The peer of `part`: of the queues the indirect one has a peer, which is called after none of ours.
fn peer_of(part: &str) -> String {
    if part == "queue-indirect" { "peer-queue".into() } else { format!("peer-{part}") }
}

/// The parts that `shows` selects, in the order of the rows.
fn groups(rows: &[Row], shows: fn(&str) -> bool) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = vec![];
    for row in rows {
        let part = row.part;
        if part.starts_with("peer-") || !shows(part) || groups.iter().any(|group| group.part == part) {
            continue;
        }
        if let Some(ours) = costs(rows, part) {
            groups.push(Group { part, ours, peer: costs(rows, &peer_of(part)) });
        }
    }
    groups
}

/// What a part is called in a chart.
fn label(part: &str) -> &str {
    match part {
        "block-dyn" => "block, dyn BlockQueue",
        "block" => "block, one call site",
        "queue-indirect" => "virtqueue, indirect",
        "queue-direct" => "virtqueue, direct",
        "queue-packed" => "virtqueue, packed",
        "virtio-net-tx" | "netvsc-tx" | "vmxnet3-tx" | "netfront-tx" => "net, send 60 bytes",
        "virtio-net-rx" | "netvsc-rx" | "vmxnet3-rx" | "netfront-rx" => "net, receive 60 bytes",
        "storvsc" => "storvsc, read 4 KiB",
        "pvscsi" => "pvscsi, read 4 KiB",
        "blkfront" => "blkfront, read 4 KiB",
        "storvsc-dyn" => "storvsc, dyn BlockQueue",
        "vmbus-ring" => "ring, one packet",
        other => other,
    }
}

const LABELS: u64 = 170;
const PANEL: u64 = 280;
/// Between panels: the figure at the end of the longest bar stands there.
const GAP: u64 = 50;
const BAR: u64 = 13;
const WIDTH: u64 = LABELS + 2 * (PANEL + GAP) + 10;
/// Of a chart without a legend; a legend stands in a line of its own.
const TOP: u64 = 66;
const LEGEND: u64 = 26;

/// The distance of grid lines, 1, 2 or 5 times a power of ten: four lines or fewer up to `most`.
fn step(most: u64) -> u64 {
    let mut step = 1;
    for factor in [2, 5, 10].iter().cycle() {
        if step * 4 >= most {
            break;
        }
        // Of 1, 2, 5, 10 each is made from the last power of ten.
        let power = 10u64.pow(step.ilog10());
        step = power * factor;
    }
    step
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The text of one chart: two panels with a common scale, one request alone and a batch.
fn draw(title: &str, groups: &[Group<'_>], theme: &Theme) -> Result<String> {
    let both = |costs: &Costs| costs.alone.max(costs.batch);
    let most = groups.iter().map(|group| group.peer.iter().map(both).fold(both(&group.ours), u64::max)).max();
    let most = most.unwrap_or(0).max(1);
    let has_peer = groups.iter().any(|group| group.peer.is_some());
    let step = step(most);
    let bars = |group: &Group<'_>| 1 + u64::from(group.peer.is_some());
    let rows: u64 = groups.iter().map(|group| bars(group) * BAR + 12).sum();
    let top = TOP + if has_peer { LEGEND } else { 0 };
    let bottom = top + rows;
    let height = bottom + 30;
    let scale = |value: u64| value as f64 * PANEL as f64 / most as f64;
    let Theme { page, text, faint, line, ours, peer, .. } = theme;
    // Keeps grid lines off the figures.
    let halo = format!(r#"stroke="{page}" stroke-width="3" paint-order="stroke""#);

    let mut svg = String::new();
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="12">"#
    )?;
    writeln!(svg, "<title>{}</title>", escape(title))?;
    writeln!(svg, r#"<rect width="{WIDTH}" height="{height}" fill="{page}"/>"#)?;
    writeln!(
        svg,
        r#"<text x="10" y="26" font-size="15" font-weight="600" fill="{text}">{}</text>"#,
        escape(title)
    )?;
    if has_peer {
        for (x, colour, name) in [(10, ours, "paravirt"), (100, peer, "virtio-drivers")] {
            writeln!(svg, r#"<rect x="{x}" y="40" width="12" height="12" fill="{colour}"/>"#)?;
            writeln!(svg, r#"<text x="{}" y="50" fill="{text}">{name}</text>"#, x + 17)?;
        }
    }
    let sizes = || groups.iter().map(|group| group.ours.batch_size);
    let batch = match (sizes().min(), sizes().max()) {
        (Some(least), Some(most)) if least < most => format!("in a batch of {least} or {most}"),
        (_, most) => format!("in a batch of {}", most.unwrap_or(0)),
    };
    for (panel, name) in ["alone", &batch].into_iter().enumerate() {
        let left = LABELS + panel as u64 * (PANEL + GAP);
        writeln!(svg, r#"<text x="{left}" y="{}" font-weight="600" fill="{text}">{name}</text>"#, top - 14)?;
        for tick in (0..=most / step).map(|at| at * step) {
            let x = left as f64 + scale(tick);
            writeln!(svg, r#"<path d="M{x:.1} {}V{bottom}" stroke="{line}"/>"#, top - 6)?;
            writeln!(
                svg,
                r#"<text x="{x:.1}" y="{}" text-anchor="middle" font-size="11" fill="{faint}">{tick}</text>"#,
                bottom + 16
            )?;
        }
        let mut y = top;
        for group in groups {
            let middle = y + bars(group) * BAR / 2 + 4;
            if panel == 0 {
                let x = LABELS - 10;
                let name = escape(label(group.part));
                writeln!(svg, r#"<text x="{x}" y="{middle}" text-anchor="end" fill="{text}">{name}</text>"#)?;
            }
            for (costs, colour) in [(Some(group.ours), ours), (group.peer, peer)] {
                let Some(costs) = costs else { continue };
                let value = if panel == 0 { costs.alone } else { costs.batch };
                let (wide, high) = (scale(value), BAR - 1);
                writeln!(
                    svg,
                    r#"<rect x="{left}" y="{y}" width="{wide:.1}" height="{high}" fill="{colour}"/>"#
                )?;
                let (x, base) = (left as f64 + wide + 5.0, y + BAR - 3);
                writeln!(
                    svg,
                    r#"<text x="{x:.1}" y="{base}" font-size="11" fill="{text}" {halo}>{value}</text>"#
                )?;
                y += BAR;
            }
            y += 12;
        }
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn sample() -> Vec<Row> {
        [
            ("block-dyn", 1, 310),
            ("block-dyn", 16, 230),
            ("queue-indirect", 1, 215),
            ("queue-indirect", 16, 150),
            ("peer-block-dyn", 1, 503),
            ("peer-block-dyn", 16, 489),
            ("peer-queue", 1, 430),
            ("peer-queue", 16, 416),
            ("netvsc-tx", 1, 900),
            ("netvsc-tx", 32, 260),
        ]
        .map(|(part, batch, instructions)| Row {
            part,
            batch,
            instructions,
            locked: 0.0,
            allocations: 0.0,
            kicks: 1.0,
        })
        .into()
    }

    #[test]
    fn each_part_stands_beside_its_peer() {
        let rows = sample();
        let groups = groups(&rows, |part| !is_vmbus(part));
        let costs = |alone, batch| Costs { alone, batch, batch_size: 16 };
        assert_eq!(
            groups,
            [
                Group { part: "block-dyn", ours: costs(310, 230), peer: Some(costs(503, 489)) },
                Group { part: "queue-indirect", ours: costs(215, 150), peer: Some(costs(430, 416)) },
            ]
        );
    }

    #[test]
    fn bars_are_as_long_as_their_figures() {
        let rows = sample();
        let svg = draw("a < b", &groups(&rows, |part| !is_vmbus(part)), &THEMES[0]).expect("text");
        let bars = |colour: &str| -> Vec<f64> {
            let bar =
                |line: &&str| line.starts_with("<rect") && line.contains(&format!(r#"fill="{colour}""#));
            let width = |line: &str| line.split(r#"width=""#).nth(1)?.split('"').next()?.parse().ok();
            // The first is the legend's.
            svg.lines().filter(bar).skip(1).filter_map(width).collect()
        };
        let long = |value: u64| (value as f64 * PANEL as f64 / 503.0 * 10.0).round() / 10.0;
        assert_eq!(bars(THEMES[0].ours), [310, 215, 230, 150].map(long));
        assert_eq!(bars(THEMES[0].peer), [503, 430, 489, 416].map(long));
        assert!(svg.contains("<title>a &lt; b</title>") && svg.contains(">in a batch of 16<"));
    }

    #[test]
    fn charts_are_written_in_both_variants_where_there_is_something_to_show() {
        let folder = Scratch::new().expect("a directory");
        let written = || {
            let entries = fs::read_dir(folder.path()).expect("the directory").flatten();
            let mut names: Vec<_> =
                entries.map(|entry| entry.file_name().into_string().expect("UTF-8")).collect();
            // The folder's lock is hidden.
            names.retain(|name| !name.starts_with('.'));
            names.sort();
            names
        };
        let virtio: Vec<Row> = sample().into_iter().filter(|row| !is_vmbus(row.part)).collect();
        write_to(folder.path(), &virtio).expect("written");
        assert_eq!(written(), ["virtio-dark.svg", "virtio-light.svg"]);
        write_to(folder.path(), &sample()).expect("written");
        assert_eq!(written(), ["virtio-dark.svg", "virtio-light.svg", "vmbus-dark.svg", "vmbus-light.svg"]);
        // Without a peer there is nothing to tell apart.
        let vmbus = fs::read_to_string(folder.path().join("vmbus-light.svg")).expect("text");
        assert!(vmbus.contains(">260<") && !vmbus.contains("virtio-drivers"));
    }

    #[test]
    fn grid_lines_are_at_round_figures() {
        assert_eq!([1, 4, 5, 9, 21, 503, 800, 801, 1481].map(step), [1, 1, 2, 5, 10, 200, 200, 500, 500]);
    }
}
