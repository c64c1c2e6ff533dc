//! Documentation tests of what safe code must not be able to do.
//!
//! Each program that must not compile is followed by one that compiles and differs only in what makes it sound. This shows that the
//! first one fails for the intended reason.
//!
//! # DMA segments
//!
//! Only `unsafe` code can create segments of memory that a device may access:
//!
//! ```compile_fail,E0133
//! use paravirt_platform::{BusAddr, Direction, DmaSegments, Segment};
//! let segments = [Segment { addr: BusAddr(0x1000), len: 16 }];
//! let _ = DmaSegments::new(&segments, Direction::FromDevice);
//! ```
//!
//! ```
//! use paravirt_platform::{BusAddr, Direction, DmaSegments, Segment};
//! let segments = [Segment { addr: BusAddr(0x1000), len: 16 }];
//! // SAFETY: the segments are not passed to a device.
//! let _ = unsafe { DmaSegments::new(&segments, Direction::FromDevice) };
//! ```
//!
//! A queue takes buffers, not segments:
//!
//! ```compile_fail,E0277
//! use paravirt_platform::Segment;
//! use paravirt_testhost::Guest;
//! use paravirt_virtio::queue::{QueueConfig, VirtQueue};
//! let _ = VirtQueue::<Guest, [Segment; 1], ()>::new(&Guest::new(), QueueConfig::new(8));
//! ```
//!
//! ```
//! use paravirt_platform::DmaSlice;
//! use paravirt_testhost::Guest;
//! use paravirt_virtio::queue::{QueueConfig, VirtQueue};
//! let _ = VirtQueue::<Guest, DmaSlice<Guest>, ()>::new(&Guest::new(), QueueConfig::new(8));
//! ```
//!
//! ```compile_fail,E0308
//! use paravirt_platform::{BusAddr, Direction, DmaSlice, Segment};
//! use paravirt_testhost::Guest;
//! use paravirt_virtio::queue::{Parts, QueueConfig, VirtQueue};
//! let mut queue = VirtQueue::<Guest, DmaSlice<Guest>, ()>::new(&Guest::new(), QueueConfig::new(8)).unwrap();
//! let data = [Segment { addr: BusAddr(0x1000), len: 16 }];
//! let _ = queue.submit_segments(Parts::NONE, &data, (), |_, _| Ok(()));
//! ```
//!
//! ```
//! use paravirt_platform::{BusAddr, Direction, DmaSegments, DmaSlice, Segment};
//! use paravirt_testhost::Guest;
//! use paravirt_virtio::queue::{Parts, QueueConfig, VirtQueue};
//! let mut queue = VirtQueue::<Guest, DmaSlice<Guest>, ()>::new(&Guest::new(), QueueConfig::new(8)).unwrap();
//! let data = DmaSegments::EMPTY;
//! let _ = queue.submit_segments(Parts::NONE, data, (), |_, _| Ok(()));
//! ```
//!
//! A buffer type promises by `unsafe impl` that it owns its segments:
//!
//! ```compile_fail,E0200
//! use paravirt_platform::{Direction, DmaBuffer, DmaSegments, SubmitError};
//! struct Mine;
//! impl DmaBuffer for Mine {
//!     fn submit(&mut self, _: Direction) -> Result<DmaSegments<'_>, SubmitError> { Ok(DmaSegments::EMPTY) }
//!     unsafe fn reclaim(&mut self) {}
//! }
//! ```
//!
//! ```
//! use paravirt_platform::{Direction, DmaBuffer, DmaSegments, SubmitError};
//! struct Mine;
//! // SAFETY: it names no memory.
//! unsafe impl DmaBuffer for Mine {
//!     fn submit(&mut self, _: Direction) -> Result<DmaSegments<'_>, SubmitError> { Ok(DmaSegments::EMPTY) }
//!     unsafe fn reclaim(&mut self) {}
//! }
//! ```
//!
//! # Stating that a device has stopped
//!
//! ```compile_fail,E0133
//! let _ = paravirt_virtio::queue::Quiesced::new();
//! ```
//!
//! ```
//! // SAFETY: it is not passed to a queue.
//! let _ = unsafe { paravirt_virtio::queue::Quiesced::new() };
//! ```
//!
//! A transport reports whether a device has stopped, and promises by `unsafe impl` that the report is true:
//!
//! ```compile_fail,E0200
//! use paravirt_platform::{InterruptLine, Message};
//! use paravirt_virtio::queue::QueueAddresses;
//! use paravirt_virtio::transport::{DeviceStatus, DeviceType, Doorbell, InterruptAck, VirtioTransport};
//! struct Mine;
//! impl VirtioTransport for Mine {
//!     fn device_type(&self) -> DeviceType { unimplemented!() }
//!     fn device_features(&mut self) -> u64 { unimplemented!() }
//!     fn set_driver_features(&mut self, _: u64) {}
//!     fn status(&self) -> DeviceStatus { unimplemented!() }
//!     fn set_status(&mut self, _: DeviceStatus) {}
//!     fn is_present(&self) -> bool { unimplemented!() }
//!     fn max_queue_size(&mut self, _: u16) -> u32 { unimplemented!() }
//!     fn enable_queue(&mut self, _: u16, _: &QueueAddresses) -> bool { unimplemented!() }
//!     fn doorbell(&mut self, _: u16) -> Option<Doorbell> { unimplemented!() }
//!     fn start_queue_reset(&mut self, _: u16) {}
//!     fn is_queue_reset(&mut self, _: u16) -> bool { unimplemented!() }
//!     fn messages(&self) -> u16 { unimplemented!() }
//!     fn set_message(&mut self, _: u16, _: Message) {}
//!     fn enable_messages(&mut self) -> bool { unimplemented!() }
//!     fn disable_messages(&mut self) {}
//!     fn set_queue_message(&mut self, _: u16, _: Option<u16>) -> bool { unimplemented!() }
//!     fn set_config_message(&mut self, _: Option<u16>) -> bool { unimplemented!() }
//!     fn line(&self) -> Option<InterruptLine> { unimplemented!() }
//!     fn interrupt_ack(&self) -> InterruptAck { unimplemented!() }
//!     fn config_generation(&self) -> u32 { unimplemented!() }
//!     fn read_config(&self, _: &[(u8, u8)], _: &mut [u8]) {}
//!     fn write_config(&mut self, _: usize, _: &[u8]) -> bool { unimplemented!() }
//! }
//! ```
//!
//! ```
//! use paravirt_platform::{InterruptLine, Message};
//! use paravirt_virtio::queue::QueueAddresses;
//! use paravirt_virtio::transport::{DeviceStatus, DeviceType, Doorbell, InterruptAck, VirtioTransport};
//! struct Mine;
//! // SAFETY: it is not passed to a driver.
//! unsafe impl VirtioTransport for Mine {
//!     fn device_type(&self) -> DeviceType { unimplemented!() }
//!     fn device_features(&mut self) -> u64 { unimplemented!() }
//!     fn set_driver_features(&mut self, _: u64) {}
//!     fn status(&self) -> DeviceStatus { unimplemented!() }
//!     fn set_status(&mut self, _: DeviceStatus) {}
//!     fn is_present(&self) -> bool { unimplemented!() }
//!     fn max_queue_size(&mut self, _: u16) -> u32 { unimplemented!() }
//!     fn enable_queue(&mut self, _: u16, _: &QueueAddresses) -> bool { unimplemented!() }
//!     fn doorbell(&mut self, _: u16) -> Option<Doorbell> { unimplemented!() }
//!     fn start_queue_reset(&mut self, _: u16) {}
//!     fn is_queue_reset(&mut self, _: u16) -> bool { unimplemented!() }
//!     fn messages(&self) -> u16 { unimplemented!() }
//!     fn set_message(&mut self, _: u16, _: Message) {}
//!     fn enable_messages(&mut self) -> bool { unimplemented!() }
//!     fn disable_messages(&mut self) {}
//!     fn set_queue_message(&mut self, _: u16, _: Option<u16>) -> bool { unimplemented!() }
//!     fn set_config_message(&mut self, _: Option<u16>) -> bool { unimplemented!() }
//!     fn line(&self) -> Option<InterruptLine> { unimplemented!() }
//!     fn interrupt_ack(&self) -> InterruptAck { unimplemented!() }
//!     fn config_generation(&self) -> u32 { unimplemented!() }
//!     fn read_config(&self, _: &[(u8, u8)], _: &mut [u8]) {}
//!     fn write_config(&mut self, _: usize, _: &[u8]) -> bool { unimplemented!() }
//! }
//! ```
