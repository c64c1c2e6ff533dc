# The entry points of the kernel. Each calls `rust_start(protocol, information)` on the boot stack, in long mode, with the
# first 4 GiB mapped one to one and SSE enabled.

.set CR0_PE, 1 << 0
.set CR0_MP, 1 << 1
.set CR0_EM, 1 << 2
.set CR0_NE, 1 << 5
.set CR0_WP, 1 << 16
.set CR0_PG, 1 << 31
.set CR4_PAE, 1 << 5
.set CR4_PGE, 1 << 7
.set CR4_OSFXSR, 1 << 9
.set CR4_OSXMMEXCPT, 1 << 10
.set EFER, 0xC0000080
.set EFER_LME, 1 << 8

# The note with the PVH entry point: XEN_ELFNOTE_PHYS32_ENTRY.
.section .note.Xen, "a", @note
    .align 4
    .long 4
    .long 4
    .long 18
    .asciz "Xen"
    .align 4
    .long pvh_entry
    .align 4

# The Multiboot2 header, for GRUB, in the first 32 KiB of the file. The header and each tag are aligned to 8 bytes.
.set MB2_MAGIC, 0xe85250d6
.set MB2_I386, 0

.section .multiboot2, "a", @progbits
    .align 8
mb2_header:
    .long MB2_MAGIC
    .long MB2_I386
    .long mb2_header_end - mb2_header
    .long -(MB2_MAGIC + MB2_I386 + (mb2_header_end - mb2_header))
    # Information request: command line, memory map, both RSDPs. Optional: a loader without them loads the kernel anyway.
    .align 8
1:  .short 1
    .short 1
    .long 2f - 1b
    .long 1
    .long 6
    .long 14
    .long 15
2:
    # The entry address: that of the ELF header is the entry of the Linux protocol.
    .align 8
1:  .short 3
    .short 0
    .long 2f - 1b
    .long multiboot2_entry
2:
    # The end tag.
    .align 8
    .short 0
    .short 0
    .long 8
mb2_header_end:

.section .text.boot, "ax", @progbits

# Multiboot2: 32-bit protected mode without paging, EBX points to the information.
.code32
.global multiboot2_entry
multiboot2_entry:
    mov edi, 2
    # The magic number of the protocol; without it there is no information.
    cmp eax, 0x36d76289
    je from_32_bit
    xor ebx, ebx
    jmp from_32_bit

# PVH: 32-bit protected mode without paging, EBX points to the start info.
.global pvh_entry
pvh_entry:
    xor edi, edi
from_32_bit:
    cli
    cld
    mov esp, offset boot_stack_end
    mov esi, ebx

    # PML4 -> PDPT -> four directories of 2 MiB pages.
    mov eax, offset boot_pdpt + 3
    mov [boot_pml4], eax
    mov ecx, 4
    mov eax, offset boot_pd + 3
    mov edx, offset boot_pdpt
1:  mov [edx], eax
    add eax, 4096
    add edx, 8
    dec ecx
    jnz 1b
    xor ecx, ecx
    mov edx, offset boot_pd
    mov eax, 0x83
2:  mov [edx], eax
    add eax, 0x200000
    add edx, 8
    inc ecx
    cmp ecx, 2048
    jne 2b

    mov eax, offset boot_pml4
    mov cr3, eax
    mov eax, CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT
    mov cr4, eax
    mov ecx, EFER
    rdmsr
    or eax, EFER_LME
    wrmsr
    mov eax, CR0_PE | CR0_MP | CR0_NE | CR0_WP | CR0_PG
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    push 8
    mov eax, offset pvh_long
    push eax
    retf

.code64
pvh_long:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    # The upper halves are undefined after the switch of modes.
    mov esi, esi
    mov edi, edi
    jmp into_rust

# Linux 64-bit boot protocol: long mode, RSI points to boot_params.
.global linux_entry
linux_entry:
    cli
    cld
    mov rsp, offset boot_stack_end
    mov rax, cr0
    and rax, ~CR0_EM
    or rax, CR0_MP | CR0_NE
    mov cr0, rax
    mov rax, cr4
    or rax, CR4_OSFXSR | CR4_OSXMMEXCPT
    mov cr4, rax
    mov edi, 1

into_rust:
    fninit
    xor ebp, ebp
    call rust_start
3:  hlt
    jmp 3b

# The trampoline of other processors: real mode, copied to the page that the SIPI names.
.code16
.global trampoline_start
trampoline_start:
    cli
    cld
    mov ax, cs
    mov ds, ax
    # lgdt, 32-bit base, at an offset in this segment.
    .byte 0x66, 0x0f, 0x01, 0x16
    .word trampoline_gdt_pointer - trampoline_start
    mov eax, CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT
    mov cr4, eax
    # mov eax, from an offset in this segment.
    .byte 0x66, 0xa1
    .word trampoline_cr3 - trampoline_start
    mov cr3, eax
    mov ecx, EFER
    rdmsr
    or eax, EFER_LME
    wrmsr
    mov eax, CR0_PE | CR0_MP | CR0_NE | CR0_WP | CR0_PG
    mov cr0, eax
    # jmp to the 16:32 address at an offset in this segment.
    .byte 0x66, 0xff, 0x2e
    .word trampoline_far - trampoline_start
.align 8
trampoline_gdt_pointer:
    .word 23
    .long boot_gdt
.align 4
trampoline_far:
    .long trampoline_long
    .word 8
.align 4
.global trampoline_cr3
trampoline_cr3:
    .long 0
.global trampoline_end
trampoline_end:

.code64
trampoline_long:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    fninit
    mov rsp, [processor_stack]
    xor ebp, ebp
    call rust_processor
4:  hlt
    jmp 4b

.section .data.boot, "aw", @progbits
.align 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
boot_gdt_pointer:
    .word 23
    .quad boot_gdt

# The stack of the processor that is being started.
.align 8
.global processor_stack
processor_stack:
    .quad 0

.section .bss.boot, "aw", @nobits
.align 4096
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4 * 4096
.global boot_stack
boot_stack:
    .skip 128 * 1024
boot_stack_end:
