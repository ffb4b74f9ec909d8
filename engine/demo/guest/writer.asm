; The guest: a boot sector that writes without pause and tells what it has written.
;
;   nasm -f bin -o writer.bin writer.asm
;
; It boots from a floppy of its own, so the disks hold nothing but its writes. Write
; number `sequence` goes to disk `sequence % disks`, BIOS drive 0x80 + disk, and there
; to the slot that a multiplicative hash of `sequence / disks` names; a slot is one
; block of 4 KiB. The block is filled with 256 records of 16 bytes
;
;   magic, sequence, disk, number of the record (0..255)      (little endian, 32 bits)
;
; so that no sector of it can be mistaken for one of another write. When the BIOS says
; that the write is done, the guest acknowledges it: it sends the sequence number to
; port 0xE9, and counts on. A write that fails is tried again, never acknowledged.
; There is never more than one write in flight.
;
; boot.py beside this file patches the four fields and holds the same constants.

        bits    16
        org     0x7C00

MAGIC           equ 0x444C4F46          ; "FOLD"
BLOCK           equ 0x8000              ; where the block is made
RECORDS         equ 256                 ; records in a block
SECTORS         equ 8                   ; sectors in a block
SLOT_BITS       equ 11                  ; 2048 slots on each disk
FIRST_SECTOR    equ 2048                ; the data area starts at 1 MiB
MULTIPLIER      equ 0x9E3779B1          ; odd: 2^32 divided by the golden ratio
FIRST_DRIVE     equ 0x80
DEBUG_PORT      equ 0xE9

        jmp     short start
        times   4 - ($ - $$) db 0

sequence        dd 1                    ; offset 4: the number of the first write
disks           dd 1                    ; offset 8: how many disks there are
delay           dd 0                    ; offset 12: microseconds between two writes
limit           dd 0                    ; offset 16: halt after so many; 0: never

start:
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, 0x7C00
        cld
        sti

next:
        mov     eax, [sequence]
        xor     edx, edx
        div     dword [disks]           ; eax = turn, edx = disk
        mov     [disk], edx
        imul    eax, eax, MULTIPLIER
        shr     eax, 32 - SLOT_BITS     ; eax = slot
        shl     eax, 3                  ; in sectors
        add     eax, FIRST_SECTOR
        mov     [packet.sector], eax

        mov     di, BLOCK
        xor     cx, cx
fill:
        mov     eax, MAGIC
        stosd
        mov     eax, [sequence]
        stosd
        mov     eax, edx
        stosd
        movzx   eax, cx
        stosd
        inc     cx
        cmp     cx, RECORDS
        jne     fill

write:
        mov     word [packet.sectors], SECTORS  ; the BIOS changes it on an error
        mov     si, packet
        mov     ax, 0x4300              ; extended write, no verify
        mov     dl, [disk]
        add     dl, FIRST_DRIVE
        int     0x13
        jc      write

        mov     si, sequence
        mov     cx, 4
        mov     dx, DEBUG_PORT
        rep outsb

        inc     dword [sequence]
        dec     dword [limit]           ; 0 turns into 2^32 - 1: endless
        jz      halt

        mov     dx, [delay]             ; cx:dx = microseconds
        mov     cx, [delay + 2]
        mov     ax, cx
        or      ax, dx
        jz      next
        mov     ah, 0x86                ; wait
        int     0x15
        jmp     next

halt:
        hlt
        jmp     halt

disk            dd 0

        align   4, db 0
packet:                                 ; the disk address packet of int 0x13
        db      16, 0
.sectors:
        dw      SECTORS
        dw      BLOCK, 0                ; offset and segment of the block
.sector:
        dd      0, 0

        times   510 - ($ - $$) db 0
        dw      0xAA55
