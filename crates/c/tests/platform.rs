//! The interface on a machine without devices: what is refused, and that everything is given back.

use paravirt_c::*;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The pages that are allocated; `context` of the table.
type Pages = AtomicUsize;

fn layout(pages: usize) -> Layout {
    Layout::from_size_align(pages * 4096, 4096).expect("a layout")
}

extern "C" fn dma_alloc(context: *mut c_void, pages: usize, out: *mut paravirt_dma) -> bool {
    // SAFETY: the context is the counter, the layout is not empty, and `out` is valid.
    unsafe {
        (*context.cast::<Pages>()).fetch_add(pages, Ordering::SeqCst);
        let cpu = alloc_zeroed(layout(pages)).cast::<c_void>();
        out.write(paravirt_dma { cpu, bus: cpu as u64, pages });
    }
    true
}

extern "C" fn dma_free(context: *mut c_void, region: *const paravirt_dma) {
    // SAFETY: the region came from `dma_alloc`.
    unsafe {
        (*context.cast::<Pages>()).fetch_sub((*region).pages, Ordering::SeqCst);
        dealloc((*region).cpu.cast(), layout((*region).pages));
    }
}

extern "C" fn now(_context: *mut c_void) -> u64 {
    1
}

fn platform(pages: &Pages) -> paravirt_platform {
    paravirt_platform {
        context: (&raw const *pages).cast_mut().cast(),
        dma_alloc: Some(dma_alloc),
        dma_free: Some(dma_free),
        now: Some(now),
        relax: None,
        map: None,
        map_firmware: None,
        unmap: None,
        bind: None,
        unbind: None,
        message: None,
        own_entries: None,
        bind_entry: None,
        free_vectors: None,
        route: None,
        processors: None,
        current: None,
        run_on: None,
        has_instructions: false,
        in32: None,
        out32: None,
        in16: None,
        out16: None,
        cpuid: None,
        tsc: None,
        read_msr: None,
        write_msr: None,
        hypercall_page: None,
        free_hypercall_page: None,
        descriptor: None,
        xen_frames: None,
    }
}

#[test]
fn a_table_without_a_required_function_is_refused() {
    let pages = Pages::new(0);
    for table in [
        paravirt_platform { dma_alloc: None, ..platform(&pages) },
        paravirt_platform { now: None, ..platform(&pages) },
        paravirt_platform { hypercall_page: Some(page), ..platform(&pages) },
    ] {
        // SAFETY: there are no devices.
        let services = unsafe { paravirt_probe(&table, null(), null(), None, null_mut()) };
        assert!(services.is_null());
    }
    // SAFETY: as above.
    assert!(unsafe { paravirt_probe(null(), null(), null(), None, null_mut()) }.is_null());
}

extern "C" fn page(_context: *mut c_void, _out: *mut paravirt_dma) -> bool {
    false
}

#[test]
fn services_of_a_machine_without_devices_give_everything_back() {
    let pages = Pages::new(0);
    let table = platform(&pages);
    // SAFETY: there are no devices, and handles are used as the interface says.
    unsafe {
        let services = paravirt_probe(&table, null(), null(), None, null_mut());
        assert!(!services.is_null());
        paravirt_services_poll(services, None, null_mut());
        assert!(paravirt_services_open_clock(services).is_null());
        assert_eq!(paravirt_services_disconnect(services), paravirt_status::Ok);
        assert!(pages.load(Ordering::SeqCst) > 0);
        paravirt_services_close(services);
        paravirt_block_close(null_mut());
    }
    assert_eq!(pages.load(Ordering::SeqCst), 0, "pages were not given back");
}

#[test]
fn every_status_has_a_text() {
    // SAFETY: the texts end in a zero.
    let text = |status| unsafe { CStr::from_ptr(paravirt_status_text(status)) }.to_str().unwrap();
    assert_eq!(text(paravirt_status::Ok as u32), "done");
    assert_eq!(text(paravirt_status::FaultReset as u32), "the device is being reset");
    let last = paravirt_status::Other as u32;
    assert_eq!(text(last), "an unknown error");
    let all: std::collections::HashSet<_> = (0..=last).map(text).collect();
    assert_eq!(all.len(), last as usize + 1, "a text stands for two");
    // Of a number that is none, which C may pass.
    assert!(!all.contains(text(last + 1)));
    assert_eq!(text(u32::MAX), text(last + 1));
}
