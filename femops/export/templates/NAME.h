/* @MARK@ @VERSION@: @LAW@
 *
@ABOUT@
 */
#ifndef @NAME@_H
#define @NAME@_H

#include "femops_law.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define @NAME@_API __declspec(dllexport)
#elif defined(__GNUC__)
#define @NAME@_API __attribute__((visibility("default")))
#else
#define @NAME@_API
#endif

/* See femops_law.h. */
@NAME@_API const femops_law_info *@NAME@_info(void);
@NAME@_API femops_law_evaluate @NAME@_evaluate;

#ifdef __cplusplus
}
#endif

#endif
