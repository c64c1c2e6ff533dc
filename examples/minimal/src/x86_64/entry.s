# The PVH entry point, which QEMU, Cloud Hypervisor and Firecracker call in 32-bit protected mode, with EBX at the start info. Enters long
# mode with the first GiB mapped one to one, and calls `start(start_info)`.

# XEN_ELFNOTE_PHYS32_ENTRY
.section .note.Xen, "a", @note
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_entry

.section .text.boot, "ax", @progbits
.code32
.global pvh_entry
pvh_entry:
    cli
    cld
    mov esp, offset stack_end
    # PML4 -> PDPT -> 512 pages of 2 MiB.
    mov dword ptr [pml4], offset pdpt + 3
    mov dword ptr [pdpt], offset directory + 3
    xor ecx, ecx
    mov eax, 0x83
1:  mov [directory + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 512
    jne 1b
    mov eax, offset pml4
    mov cr3, eax
    # CR4: PAE, OSFXSR, OSXMMEXCPT. EFER: LME. CR0: PE, MP, NE, WP, PG.
    mov eax, 0x620
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, 0x80010023
    mov cr0, eax
    lgdt [gdt_pointer]
    push 8
    mov eax, offset long_mode
    push eax
    retf
.code64
long_mode:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    fninit
    mov edi, ebx
    xor ebp, ebp
    call start

.section .rodata
    .align 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .short 23
    .long gdt

.section .bss, "aw", @nobits
    .align 4096
pml4:       .skip 4096
.global pdpt
pdpt:       .skip 4096
directory:  .skip 4096
    .skip 65536
stack_end:
